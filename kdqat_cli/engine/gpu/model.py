"""The packed model on a GPU: transformers' own modules, with linears and word embedding on their 2-bit codes.

Softmax, normalisation and the functions between the linears stay FP32, and attention is the student's own function with
its 8-bit Q, K, probabilities and V. The logits are the student's within a rounding of FP32.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdqat_cli.engine.gpu.layers import PackedEmbedding, PackedLinear, runs_triton
from kdqat_cli.engine.row import Row
from kdqat_cli.engine.torch_model import TorchModel
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.parts import require_encoder
from kdqat_cli.packing.checkpoint import PackedCheckpoint
from kdqat_cli.packing.hf_model import empty_model, fill
from kdqat_cli.packing.soundness import not_ternary
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear
from kdqat_cli.quantizers.parameters import quantized_layers


def gpu() -> torch.device:
    """The GPU.

    Raises:
        MissingInputError: torch sees none.
    """
    if not torch.cuda.is_available():
        raise MissingInputError("torch sees no GPU here.", "the same command with --device cpu")
    return torch.device("cuda", torch.cuda.current_device())


def gpu_name(device: torch.device) -> str:
    """What a measurement says of a GPU: its name, and the versions of what computes there."""
    name = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    if not runs_triton(device):
        return f"{name}, without Triton"
    import triton

    return f"{name}, Triton {triton.__version__}"


class PackedModel(TorchModel):
    """A classifier whose ternary weights lie at two bits in the memory of a device.

    Attributes:
        triton: whether Triton's kernels multiply; else torch's int8 product does, on weights expanded at each use.
    """

    batch_size = 128

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads a packed file.

        Raises:
            ConfigError: an architecture, or a kind of quantisation, that the engine does not serve.
            MissingInputError: the file is damaged.
        """
        checkpoint = PackedCheckpoint(path)
        family = configured(checkpoint.config)
        require_encoder(checkpoint.config)
        if other := not_ternary(checkpoint):
            raise ConfigError(f"On a GPU the engine serves ternary weights; {other} is not so.", "--device cpu")
        model = empty_model(checkpoint)
        self.triton = runs_triton(device)
        packed = checkpoint.codes()
        for name, layer in quantized_layers(model).items():
            if f"{name}.weight" not in packed:
                raise MissingInputError(f"{path} does not fit its own configuration: it has no ternary {name}.")
            codes = packed[f"{name}.weight"]
            if isinstance(layer, QuantizedEmbedding):
                model.set_submodule(name, PackedEmbedding(layer, codes))
            elif not isinstance(layer, QuantizedLinear) or layer.quantizer is None or layer.quantizer.scale != "token":
                raise ConfigError("On a GPU the engine computes with 8-bit activations, one scale per token.")
            else:
                model.set_submodule(name, PackedLinear(layer, codes))
        if self.triton:
            _use_kernels(model)
        super().__init__(fill(model, checkpoint.dense(), path).to(device))
        self._longest, self._types = family.longest_row(checkpoint.config), family.type_count(checkpoint.config) or 1
        self._words = model.get_input_embeddings().num_embeddings

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits (rows, labels) of sequences of any lengths.

        Raises:
            ValueError: no rows, an empty one, one that is too long, or an id that the model does not know.
        """
        # Beforehand: a GPU that looks up what is not there refuses all further work of the process.
        for ids, kinds in rows:
            if self._longest is not None and len(ids) > self._longest:
                raise ValueError(f"a sequence that the model cannot take: it is longer than {self._longest} tokens")
            if any(not 0 <= word < self._words for word in ids):
                raise ValueError("a sequence that the model cannot take: a token id is out of range")
            if kinds is not None and any(not 0 <= kind < self._types for kind in kinds):
                raise ValueError("a sequence that the model cannot take: a token type is out of range")
        return super().logits(rows)


def _use_kernels(model: torch.nn.Module) -> None:
    from kdqat_cli.engine.gpu.kernels import KernelQuantizer

    ours: dict[ActivationQuantizer, KernelQuantizer] = {}  # one for all, since Q, K and V share their input's codes
    for module in model.modules():
        student = getattr(module, "quantizer", None)
        if isinstance(student, ActivationQuantizer):
            kernel = KernelQuantizer(student.bits, student.clip, student.scale)
            module.quantizer = ours.setdefault(student, kernel)  # type: ignore[assignment]
