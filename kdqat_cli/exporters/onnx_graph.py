"""onnx and onnx-plain: the classifier as an ONNX graph, with dynamic batch and length axes.

torch traces the student; what a format does otherwise is swapped in as modules first. In the packed graph

    a linear          com.microsoft MatMulNBits           2 bits, blocks of 128 along I, accuracy_level 4
    the word table    com.microsoft GatherBlockQuantized  2 bits, one block a row

with the codes stored as code + 2 (the operators' zero point) and the scale repeated for every block of its matrix or
row: exact. `accuracy_level` 4 lets ONNX Runtime round the input of a linear to 8 bits itself, one scale a block of
128, in integer kernels: that is finer than the student's one scale a token. Blocks of 128 are the fastest of 32, 64,
128 and 256 there (256 has no integer kernel).

The student's own rounding is not in the graphs. As ONNX operators (ReduceMax, Div, Round, Mul) it cost a third of the
speed and brought the labels no closer: 3 to 6 of 1,027 differ with it, 5 without, since flips of rounding remain
(see parity.py). What stands nowhere is dynamic int8 of the plain graph: ternary weights sit at the ends of int8's
range, and its 16-bit sums saturate on processors without VNNI.

The plain graph has FP32 weights and the operators of ONNX alone.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.exporters.parity import Batch, Logits
from kdqat_cli.exporters.weights import ternary_codes
from kdqat_cli.networks.modules import family_of
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.layers import QuantizedLinear

FILE = "model.onnx"
CODES_PER_BYTE = 4
BLOCK = 128
SMALLEST_BLOCK = 16
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes model.onnx with 2-bit weights, config.json and the tokenizer.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer, which says what the model's inputs are.
        folder: an existing folder.

    Raises:
        ConfigError: kdqat does not know the architecture, or a weight is not ternary.
    """
    student = _copy(model)
    quantized = {name for name, layer in model.named_modules() if getattr(layer, "quantizer", None) is not None}
    for name, codes in ternary_codes(student).items():
        layer = student.get_submodule(name)
        linear = isinstance(layer, QuantizedLinear)
        packed = _PackedLinear(codes, layer.bias, name in quantized) if linear else _PackedEmbedding(codes)
        student.set_submodule(name, packed)
    _write(student, tokenizer, folder)


def write_plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes model.onnx in FP32 and standard operators, config.json and the tokenizer.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer, which says what the model's inputs are.
        folder: an existing folder.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    _write(_copy(model), tokenizer, folder)


def logits(folder: Path, batches: list[Batch]) -> list[Logits]:
    """Logits (B, labels) of each batch by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
    return [session.run(None, batch)[0] for batch in batches]


def pack(levels: Tensor, block: int) -> Tensor:
    """Levels (O, I) in {-1, 0, 1} → bytes (O, ⌈I/block⌉, block/4), four levels per byte, the lowest bits first.

    What a block has beyond I is filled up with zeros (stored as 2).
    """
    rows, columns = levels.shape
    blocks = -(-columns // block)
    digits = torch.full((rows, blocks * block), 2, dtype=torch.uint8)
    digits[:, :columns] = (levels + 2).to(torch.uint8)
    digits = digits.view(rows, blocks, block // CODES_PER_BYTE, CODES_PER_BYTE)
    return digits[..., 0] | digits[..., 1] << 2 | digits[..., 2] << 4 | digits[..., 3] << 6


class _PackedLinear(nn.Module):
    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Codes, bias: Tensor | None, quantized: bool) -> None:
        super().__init__()
        rows, columns = codes.levels.shape
        packed = pack(codes.levels, BLOCK)
        self.register_buffer("codes", packed)
        self.register_buffer("scales", codes.scales[:, None].expand(rows, packed.shape[1]).contiguous())
        self.bias = bias
        # 1: FP32. A student with unrounded activations does not get rounded ones here.
        accuracy = 4 if quantized else 1
        self.attributes = {"K": columns, "N": rows, "bits": 2, "block_size": BLOCK, "accuracy_level": accuracy}

    @property
    def weight(self) -> Tensor:
        """T5's feed-forward asks its linear for the weight's type."""
        return self.scales

    def forward(self, inputs: Tensor) -> Tensor:
        shape = (*inputs.shape[:-1], self.attributes["N"])
        operands = (inputs, self.codes, self.scales)
        outputs = _operator("MatMulNBits", operands, self.attributes, inputs.dtype, shape)
        return outputs if self.bias is None else outputs + self.bias


class _PackedEmbedding(nn.Module):
    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        rows, self.columns = codes.levels.shape
        block = max(SMALLEST_BLOCK, 1 << (self.columns - 1).bit_length())  # the power of two that holds a row
        used = -(-self.columns // CODES_PER_BYTE)
        self.register_buffer("codes", pack(codes.levels, block).view(rows, -1)[:, :used].contiguous())
        self.register_buffer("scales", codes.scales[:, None].clone())
        self.attributes = {"bits": 2, "block_size": block, "gather_axis": 0, "quantize_axis": 1}

    def forward(self, input_ids: Tensor) -> Tensor:
        shape = (*input_ids.shape, self.columns)
        operands = (self.codes, input_ids, self.scales)
        return _operator("GatherBlockQuantized", operands, self.attributes, torch.float32, shape)


def _operator(name: str, operands: tuple[Any, ...], attributes: Any, dtype: torch.dtype, shape: Any) -> Tensor:
    """An operator of ONNX Runtime's own, which torch puts into the graph without knowing what it does."""
    out: Tensor = torch.onnx.ops.symbolic(
        f"com.microsoft::{name}", operands, attributes, dtype=dtype, shape=shape, version=1
    )
    return out


class _Logits(nn.Module):
    """Positional inputs of the given names → logits (B, labels)."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        out: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return out


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy on the CPU whose activations are not rounded."""
    family_of(model)  # refuses unknown ones
    student = copy.deepcopy(model).cpu().eval()
    for module in student.modules():
        if getattr(module, "quantizer", None) is not None:
            module.quantizer = None
    return student


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    names = [name for name in tokenizer.model_input_names if name in INPUTS]
    # Two rows of three tokens: torch.export takes an axis of length 1 for one that never changes.
    rows = {"input_ids": torch.full((2, 3), 5), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    rows["token_type_ids"] = torch.zeros(2, 3, dtype=torch.long)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls what it has deprecated itself
        program = torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(rows[name] for name in names),
            dynamo=True,
            dynamic_shapes=((axes,) * len(names),),
            input_names=names,
            output_names=["logits"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    # Of every node torch records where in the source it comes from: paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    program.save(folder / FILE)
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on packages that the export does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
