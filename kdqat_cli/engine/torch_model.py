"""Computes the same logits with torch, for CPUs and models that the native library does not support."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.engine.row import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TorchModel:
    """A classifier of transformers with the interface of the native model."""

    batch_size = 32
    """Rows per batch. Rows of similar length are batched together, because padding is computed for nothing."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Takes a model in eval mode, on its device."""
        self._model = model
        self.labels: int = model.config.num_labels

    @classmethod
    def load(cls, folder: Path, threads: int) -> "TorchModel":
        """Loads the folder of a packed file, with its ternary weights as floats.

        Raises:
            MissingInputError: the file is damaged.
        """
        # Imported here, because an engine with the native library must not load torch.
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(threads)
        return cls(AutoModelForSequenceClassification.from_pretrained(folder))

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits (rows, labels) of sequences of any lengths.

        Raises:
            ValueError: there are no rows, a row is empty or too long, or a token id or type is out of range.
        """
        import torch

        if not rows:
            raise ValueError("there are no rows")
        if any(len(ids) == 0 for ids, _ in rows):
            raise ValueError("a sequence is empty")
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
            # Keys of a configuration that soundness.py does not check lead to different errors in each architecture.
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
                raise ValueError(f"the model cannot compute a sequence: {error}") from error
        return out
