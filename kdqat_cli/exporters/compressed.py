"""hf-compressed: compressed-tensors' `pack-quantized`, 2 bits a weight of linears and word embedding alike.

    <name>.weight_packed   I32 (O, ⌈I/16⌉)   word [o, k] = Σ_{j<16} (level[o, 16k + j] + 2) << 2j
    <name>.weight_scale    F32 (O, 1)        α of the row; of a linear with one scale, that one again
    <name>.weight_shape    I64 (2,)          O, I

The smallest folder that stock transformers loads; it needs the package compressed-tensors beside it. The weights are
multiplied out at load (`dequantize`): the file is small, the running model is FP32. Two things speak against leaving
them packed in memory. transformers 5.23 cannot: it looks for the `weight` of a packed embedding and fails. And
compressed-tensors 0.20 would use a packed linear by multiplying it out at the first call. Activations are in full
precision: its 8-bit inputs divide by 127.5 where the student divides by 127, span the whole batch where an input has
two axes (the pooler's), and did not load either.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.exporters.stock import write_stock
from kdqat_cli.exporters.weights import other_tensors, ternary_codes

CODES_PER_WORD = 16


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, half: bool = False) -> None:
    """Writes config.json, model.safetensors and the tokenizer.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer.
        folder: an existing folder.
        half: store scales and what is not ternary as FP16; it is loaded as FP32.

    Raises:
        ConfigError: transformers has no classifier of this architecture.
    """
    weights = ternary_codes(model)
    tensors = other_tensors(model, weights)
    for name, codes in weights.items():
        rows = len(codes.levels)
        tensors[f"{name}.weight_packed"] = pack(codes.levels)
        tensors[f"{name}.weight_scale"] = codes.scales[:, None].expand(rows, 1)
        tensors[f"{name}.weight_shape"] = torch.tensor(codes.levels.shape)
    write_stock(model, tokenizer, folder, tensors, half, _quantization(list(weights)))


def pack(levels: Tensor) -> Tensor:
    """Levels (O, I) in {-1, 0, 1} → words (O, ⌈I/16⌉), int32; the last is filled up with zero bits."""
    rows, columns = levels.shape
    words = -(-columns // CODES_PER_WORD)
    digits = torch.zeros(rows, words * CODES_PER_WORD, dtype=torch.int64)
    digits[:, :columns] = levels + 2
    shifted = digits.view(rows, words, CODES_PER_WORD) << 2 * torch.arange(CODES_PER_WORD)
    return shifted.sum(-1).to(torch.int32)  # int64 → int32 keeps the lower 32 bits: the sign bit is a level's


def _quantization(names: list[str]) -> dict[str, Any]:
    weights = {"num_bits": 2, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": names, "weights": weights}},
        "ignore": [],
        "dequantize": True,
    }
