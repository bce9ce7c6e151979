"""A packed model on a GPU: the modules of transformers, with 2-bit codes in the linears and the word embedding.

Softmax, normalisation and activation functions stay FP32. Attention is the student's function, with 8-bit Q, K,
probabilities and V. The logits equal the student's within the rounding of FP32.
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
        MissingInputError: torch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise MissingInputError("torch finds no GPU here.", "the same command with --device cpu")
    return torch.device("cuda", torch.cuda.current_device())


def gpu_name(device: torch.device) -> str:
    """A description of a GPU for measurements: its name, and the versions of torch, CUDA and Triton."""
    name = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    if not runs_triton(device):
        return f"{name}, without Triton"
    import triton

    return f"{name}, Triton {triton.__version__}"


class PackedModel(TorchModel):
    """A classifier whose ternary weights take two bits in the memory of a device.

    Attributes:
        triton: whether Triton kernels multiply; else torch multiplies int8 weights, which are expanded at each use.
    """

    batch_size = 128

    def __init__(self, path: Path, device: torch.device) -> None:
        """Loads a packed file.

        Raises:
            ConfigError: the engine does not support the architecture or the quantisation.
            MissingInputError: the file is damaged.
        """
        checkpoint = PackedCheckpoint(path)
        family = configured(checkpoint.config)
        require_encoder(checkpoint.config)
        if other := not_ternary(checkpoint):
            raise ConfigError(
                f"On a GPU the engine supports ternary weights only, but they are {other}.", "--device cpu"
            )
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
                raise ConfigError("On a GPU the engine needs 8-bit activations with one scale per token.")
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
            ValueError: there are no rows, a row is empty or too long, or a token id or type is out of range.
        """
        # Checked first, because after an index out of range a GPU fails for the rest of the process.
        for ids, kinds in rows:
            if self._longest is not None and len(ids) > self._longest:
                raise ValueError(f"the model cannot compute a sequence: it is longer than {self._longest} tokens")
            if any(not 0 <= word < self._words for word in ids):
                raise ValueError("the model cannot compute a sequence: a token id is out of range")
            if kinds is not None and any(not 0 <= kind < self._types for kind in kinds):
                raise ValueError("the model cannot compute a sequence: a token type is out of range")
        return super().logits(rows)


def _use_kernels(model: torch.nn.Module) -> None:
    from kdqat_cli.engine.gpu.kernels import KernelQuantizer

    ours: dict[ActivationQuantizer, KernelQuantizer] = {}  # shared, because Q, K and V share the codes of their input
    for module in model.modules():
        student = getattr(module, "quantizer", None)
        if isinstance(student, ActivationQuantizer):
            kernel = KernelQuantizer(student.bits, student.clip, student.scale)
            module.quantizer = ours.setdefault(student, kernel)  # type: ignore[assignment]
