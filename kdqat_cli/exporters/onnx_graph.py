"""onnx and onnx-plain: the classifier as an ONNX graph, with dynamic batch and length axes.

torch traces the student, after modules that the format computes differently have been replaced. In the packed graph

    a linear              com.microsoft MatMulNBits           2 bits, blocks of 128 along I, accuracy_level 4
    the word embedding    com.microsoft GatherBlockQuantized  2 bits, one block per row

The codes are stored as code + 2 (2 is the zero point of the operators), and the scale is repeated for every block of
its matrix or row, so the weights are exact. With `accuracy_level` 4, ONNX Runtime rounds the input of a linear to 8
bits in integer kernels, with one scale per block of 128. This is finer than the student's one scale per token. Of the
block sizes 32, 64, 128 and 256, 128 is the fastest there (256 has no integer kernel).

The graphs do not contain the student's own rounding. As ONNX operators (ReduceMax, Div, Round, Mul) it cost a third of
the speed and did not bring the labels closer: 3 to 6 of 1,027 labels differ with it, 5 without, because rounding still
differs in single values (see parity.py). Dynamic int8 of the plain graph is not offered: ternary weights lie at the
ends of the range of int8, and its 16-bit sums saturate on CPUs without VNNI.

The plain graph has FP32 weights and only standard ONNX operators.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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
        tokenizer: its tokenizer, which names the inputs of the model.
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
    """Writes model.onnx with FP32 weights and standard operators, config.json and the tokenizer.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer, which names the inputs of the model.
        folder: an existing folder.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    _write(_copy(model), tokenizer, folder)


def logits(folder: Path, batches: list[Batch]) -> list[Logits]:
    """The logits (B, labels) of each batch, computed by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
    return [session.run(None, batch)[0] for batch in batches]


def pack(levels: Tensor, block: int) -> Tensor:
    """Levels (O, I) in {-1, 0, 1} → bytes (O, ⌈I/block⌉, block/4), four levels per byte, the lowest bits first.

    The last block of a row is padded with level 0 (stored as 2).
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
        # 1 means FP32: if the student does not round activations, the graph does not either.
        accuracy = 4 if quantized else 1
        self.attributes = {"K": columns, "N": rows, "bits": 2, "block_size": BLOCK, "accuracy_level": accuracy}

    @property
    def weight(self) -> Tensor:
        """A float tensor, because T5's feed-forward reads the type of its linear's weight."""
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
        block = max(SMALLEST_BLOCK, 1 << (self.columns - 1).bit_length())  # the smallest power of two that holds a row
        used = -(-self.columns // CODES_PER_BYTE)
        self.register_buffer("codes", pack(codes.levels, block).view(rows, -1)[:, :used].contiguous())
        self.register_buffer("scales", codes.scales[:, None].clone())
        self.attributes = {"bits": 2, "block_size": block, "gather_axis": 0, "quantize_axis": 1}

    def forward(self, input_ids: Tensor) -> Tensor:
        shape = (*input_ids.shape, self.columns)
        operands = (self.codes, input_ids, self.scales)
        return _operator("GatherBlockQuantized", operands, self.attributes, torch.float32, shape)


def _operator(
    name: str, operands: tuple[Tensor, ...], attributes: Mapping[str, int], dtype: torch.dtype, shape: tuple[int, ...]
) -> Tensor:
    """An operator of ONNX Runtime, which torch writes into the graph and does not compute."""
    out: Tensor = torch.onnx.ops.symbolic(
        f"com.microsoft::{name}", operands, dict(attributes), dtype=dtype, shape=shape, version=1
    )
    return out


class _Logits(nn.Module):
    """Takes the named inputs by position and returns the logits (B, labels)."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        out: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return out


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy on the CPU that does not round activations."""
    family_of(model)  # refuses unknown architectures
    student = copy.deepcopy(model).cpu().eval()
    for module in student.modules():
        if getattr(module, "quantizer", None) is not None:
            module.quantizer = None
    return student


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    names = [name for name in tokenizer.model_input_names if name in INPUTS]
    # Two rows of three tokens, because torch.export treats an axis of length 1 as constant.
    rows = {"input_ids": torch.full((2, 3), 5), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    rows["token_type_ids"] = torch.zeros(2, 3, dtype=torch.long)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls its own deprecated functions
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
        raise RuntimeError("torch.onnx.export returned no program")
    # torch records the source line of every node, with paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    program.save(folder / FILE)
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides torch's messages about packages that the export does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
