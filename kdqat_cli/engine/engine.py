"""The engine, which runs a packed model from its packed weights.

    engine = Engine.load("runs/rte/packed/map+output-42/model", threads=2)
    engine.logits([([101, 1037, 2158, 102], None)])

With the native library, torch is not imported: the engine needs only numpy, safetensors and a tokenizer. In memory the
ternary weights take two bits each (1.6 in the word embedding); they are never expanded to floats. If the library is
missing or does not support the model, torch computes the same logits, and `remark` says so in one sentence.

On a GPU (`device="cuda"`), torch and Triton kernels compute, also from two-bit weights (engine/gpu/).
"""

import os
from collections.abc import Sequence
from pathlib import Path

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
        kernel: a kernel of the native library, or `torch`; on a GPU `triton` or `int8`.
        threads: number of threads.
        remark: one sentence if something slower computes than expected; None otherwise.
        labels: number of logits per row.
        config: the configuration of the model, as in config.json.
        record: the record of the packed model: task, labels, quantisation.
    """

    def __init__(
        self, model: NativeModel | TorchModel, kernel: str, threads: int, remark: str | None, file: PackedFile
    ) -> None:
        self._model = model
        self.kernel, self.threads, self.remark = kernel, threads, remark
        self.labels = model.labels
        self.config = file.config
        self.record = file.record

    @classmethod
    def load(cls, source: str | Path, threads: int | None = None, device: Device = "cpu") -> "Engine":
        """Loads a packed file, or the folder of a packed file.

        Args:
            source: the file or folder.
            threads: number of threads, at most 256; None: one for each CPU that this process may use.
            device: CPU or GPU; a GPU needs torch.

        Raises:
            MissingInputError: the file does not exist, is truncated or altered, is not a packed file, or does not fit
                its own configuration; or there is no GPU.
            ConfigError: KDQAT_KERNEL names a kernel that this CPU cannot run, or the engine does not support the model
                on a GPU.
        """
        path = Path(source)
        if path.is_dir():
            path = path / FILE_NAME
        file = PackedFile(path)
        count = min(threads or processors(), MOST_THREADS)
        if device == "cuda":
            from kdqat_cli.engine.gpu.model import PackedModel, gpu

            packed = PackedModel(path, gpu())
            remark = None if packed.triton else "Triton does not run here; torch multiplies int8 weights, more slowly."
            return cls(packed, "triton" if packed.triton else "int8", count, remark, file)
        kernel = kernel_here()
        if kernel == TORCH:
            missing = "The native library was not built (it needs a C++ compiler); torch computes, more slowly."
            remark = None if os.environ.get(KERNEL_VARIABLE) else missing
            return cls(TorchModel.load(path.parent, count), TORCH, count, remark, file)
        try:
            model = NativeModel(file, kernel, count)
            remark = None if model.threads == count else f"Only {model.threads} of {count} threads could be started."
            return cls(model, kernel, model.threads, remark, file)
        except ConfigError as refused:
            remark = f"{refused.sentence} Torch computes, more slowly."
            return cls(TorchModel.load(path.parent, count), TORCH, count, remark, file)

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits (rows, labels) of sequences of any lengths, without padding.

        Args:
            rows: the token ids of each sequence, and its token types (None: all 0).

        Raises:
            ValueError: there are no rows, a row is empty or too long, or a token id or type is out of range.
        """
        return self._model.logits(rows)
