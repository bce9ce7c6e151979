"""The engine: a packed model, served from its packed weights.

    engine = Engine.load("runs/rte/packed/map+output-42/model", threads=2)
    engine.logits([([101, 1037, 2158, 102], None)])

With the native library no torch is imported: numpy, safetensors and a tokenizer are all that serving takes. Memory
holds the ternary weights at two bits (the word embedding at 1.6), never a multiplied-out copy. Where the library was
not built, or does not serve the model, torch computes the same logits, and `remark` says so in one sentence.

On a GPU (`device="cuda"`) it is torch and Triton's kernels that serve, from two bits as well (engine/gpu/).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdqat_cli.config import Device
from kdqat_cli.engine.native_model import NativeModel
from kdqat_cli.engine.row import Row
from kdqat_cli.engine.torch_model import TorchModel
from kdqat_cli.errors import ConfigError
from kdqat_cli.native import MOST_THREADS
from kdqat_cli.native.library import KERNEL_VARIABLE, TORCH, kernel_here
from kdqat_cli.packing.packed_file import FILE_NAME, PackedFile
from kdqat_cli.processors import processors


class Engine:
    """A loaded packed model.

    Attributes:
        kernel: what computes: a kernel of the native library, or `torch`; on a GPU `triton` or `int8`.
        threads: that compute together.
        remark: one sentence where something slower took the place of what was meant to compute; None otherwise.
        labels: the number of logits a row.
        config: the model's configuration, as in config.json.
        record: what was recorded when the model was packed: task, labels, quantisation.
    """

    def __init__(
        self, model: NativeModel | TorchModel, kernel: str, threads: int, remark: str | None, file: PackedFile
    ) -> None:
        self._model = model
        self.kernel, self.threads, self.remark = kernel, threads, remark
        self.labels = model.labels
        self.config: dict[str, Any] = file.config
        self.record = file.record

    @classmethod
    def load(cls, source: str | Path, threads: int | None = None, device: Device = "cpu") -> "Engine":
        """Loads a packed file, or the folder of one.

        Args:
            source: the file or folder.
            threads: that compute together, 256 at most; None: as many as there are processors for this process.
            device: the processor, or a GPU, which takes torch.

        Raises:
            MissingInputError: no such file, or truncated, altered, foreign, or not fitting its own configuration; or
                there is no GPU.
            ConfigError: KDQAT_KERNEL names a kernel that does not run here, or a GPU is asked for a model that the
                engine does not serve there.
        """
        path = Path(source)
        if path.is_dir():
            path = path / FILE_NAME
        file = PackedFile(path)
        count = min(threads or processors(), MOST_THREADS)
        if device == "cuda":
            from kdqat_cli.engine.gpu.model import PackedModel, gpu

            packed = PackedModel(path, gpu())
            remark = None if packed.triton else "Triton does not run here: torch multiplies int8 weights, slower."
            return cls(packed, "triton" if packed.triton else "int8", count, remark, file)
        kernel = kernel_here()
        if kernel == TORCH:
            missing = "The native library was not built here (it takes a C++ compiler): torch computes, slower."
            remark = None if os.environ.get(KERNEL_VARIABLE) else missing
            return cls(TorchModel.load(path.parent, count), TORCH, count, remark, file)
        try:
            model = NativeModel(file, kernel, count)
            remark = None if model.threads == count else f"Only {model.threads} of {count} threads could be started."
            return cls(model, kernel, model.threads, remark, file)
        except ConfigError as refused:
            remark = f"{refused.sentence} Torch computes, slower."
            return cls(TorchModel.load(path.parent, count), TORCH, count, remark, file)

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits (rows, labels) of sequences of any lengths; no padding is needed, and none computed.

        Args:
            rows: token ids of each sequence, and its token types (None: all 0).

        Raises:
            ValueError: no rows, an empty one, one that is too long, or an id that the model does not know.
        """
        return self._model.logits(rows)
