"""The same logits by torch and transformers, for processors and models that the native library does not serve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.engine.row import Row


class TorchModel:
    """A classifier of transformers, fed as the native model is."""

    batch_size = 32
    """Rows; of like length together, since padding is computed and thrown away."""

    def __init__(self, model: Any) -> None:
        """Takes a model in eval mode, on the device that it is to compute on."""
        self._model = model
        self.labels: int = model.config.num_labels

    @classmethod
    def load(cls, folder: Path, threads: int) -> "TorchModel":
        """Loads the folder of a packed file, ternary weights multiplied out.

        Raises:
            MissingInputError: the file is damaged.
        """
        # Here, not above: an engine that is served by the native library must not load torch.
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(threads)
        return cls(AutoModelForSequenceClassification.from_pretrained(folder))

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits (rows, labels) of sequences of any lengths.

        Raises:
            ValueError: no rows, an empty one, one that is too long, or an id that the model does not know.
        """
        import torch

        if not rows:
            raise ValueError("no rows to predict")
        if any(len(ids) == 0 for ids, _ in rows):
            raise ValueError("an empty sequence")
        with_types = any(kinds is not None for _, kinds in rows)
        out = np.empty((len(rows), self.labels), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
        padding = self._model.config.pad_token_id or 0
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            longest = len(rows[indices[-1]][0])
            ids = torch.full((len(indices), longest), padding)
            types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
            for place, index in enumerate(indices):
                tokens, kinds = rows[index]
                ids[place, : len(tokens)] = torch.as_tensor(tokens)
                mask[place, : len(tokens)] = 1
                if kinds is not None:
                    types[place, : len(tokens)] = torch.as_tensor(kinds)
            inputs = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if with_types else {})
            inputs = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
            try:
                with torch.no_grad():
                    out[indices] = self._model(**inputs).logits.float().cpu().numpy()
            # Of a configuration's keys that soundness.py does not know, each architecture says it in its own way.
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
                raise ValueError(f"a sequence that the model cannot take: {error}") from error
        return out
