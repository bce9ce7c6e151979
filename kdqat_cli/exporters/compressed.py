"""hf-compressed: compressed-tensors' `pack-quantized`, 2 bits per weight of linears and word embedding.

    <name>.weight_packed   I32 (O, ⌈I/16⌉)   word [o, k] = Σ_{j<16} (level[o, 16k + j] + 2) << 2j
    <name>.weight_scale    F32 (O, 1)        α of the row; for a linear, the same scale in every row
    <name>.weight_shape    I64 (2,)          O, I

This is the smallest folder that stock transformers loads; it also needs the package compressed-tensors. The weights are
expanded to floats when they are loaded (`dequantize`), so the file is small, but the running model is FP32. They do not
stay packed in memory for two reasons. transformers 5.23 fails, because it looks for the `weight` of a packed embedding.
And compressed-tensors 0.20 would expand a packed linear at its first call. Activations are in full precision, because
8-bit inputs of compressed-tensors divide by 127.5 where the student divides by 127, share a scale over the whole batch
for inputs with two axes (the pooler), and did not load either.
"""

from pathlib import Path

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
        half: store scales and tensors that are not ternary as FP16; they are loaded as FP32.

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
    """Levels (O, I) in {-1, 0, 1} → words (O, ⌈I/16⌉), int32; the last word is padded with zero bits."""
    rows, columns = levels.shape
    words = -(-columns // CODES_PER_WORD)
    digits = torch.zeros(rows, words * CODES_PER_WORD, dtype=torch.int64)
    digits[:, :columns] = levels + 2
    shifted = digits.view(rows, words, CODES_PER_WORD) << 2 * torch.arange(CODES_PER_WORD)
    return shifted.sum(-1).to(torch.int32)  # keeps the lower 32 bits; the sign bit belongs to a level


def _quantization(names: list[str]) -> dict[str, object]:
    weights = {"num_bits": 2, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": names, "weights": weights}},
        "ignore": [],
        "dequantize": True,
    }
