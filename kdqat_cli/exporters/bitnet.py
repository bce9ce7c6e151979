"""hf: linears in the layout of transformers' `quant_method: bitnet`, 2 bits per weight.

    <name>.weight         U8 (O/4, I)   byte [r, i] = Σ_{j<4} (level[r + j·O/4, i] + 1) << 2j
    <name>.weight_scale   F32 (1,)      1/α

transformers' BitLinear rounds the input of each linear to 8 bits with one scale per token, as the student does, and
divides by the stored scale. A matrix of zeros has no 1/α and gets 1. Q, K, V and the attention probabilities stay in
full precision.

The layout has one scale per matrix. So the word embedding, which has one scale per row, stays a plain table of floats
and takes most of the file; hf-compressed packs it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError
from kdqat_cli.exporters.stock import write_stock
from kdqat_cli.exporters.weights import other_tensors, ternary_codes
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.layers import QuantizedEmbedding

ROWS_PER_BYTE = 4


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, half: bool = False) -> None:
    """Writes config.json, model.safetensors and the tokenizer.

    Args:
        model: a frozen student with one scale per linear.
        tokenizer: its tokenizer.
        folder: an existing folder.
        half: store tensors that are not ternary as FP16; they are loaded as FP32.

    Raises:
        ConfigError: a linear has one scale per row, out features are not a multiple of 4, or transformers does not have
            the architecture.
    """
    weights = ternary_codes(model)
    tensors = other_tensors(model, weights)
    for name, codes in weights.items():
        if isinstance(model.get_submodule(name), QuantizedEmbedding):
            tensors[f"{name}.weight"] = codes.value()
            continue
        _check(name, codes)
        tensors[f"{name}.weight"] = pack(codes.levels)
        tensors[f"{name}.weight_scale"] = 1 / codes.scales.where(codes.scales > 0, 1)
    write_stock(model, tokenizer, folder, tensors, half, _quantization(model))


def pack(levels: Tensor) -> Tensor:
    """Levels (O, I) in {-1, 0, 1} → bytes (O/4, I); the lowest two bits hold the first quarter of the rows."""
    quarters = (levels + 1).to(torch.uint8).view(ROWS_PER_BYTE, -1, levels.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def _check(name: str, codes: Codes) -> None:
    rows = len(codes.levels)
    if codes.scales.numel() != 1:
        raise ConfigError(
            f"{name} has one scale per row, but the bitnet layout has one per matrix.", "--format hf-compressed"
        )
    if rows % ROWS_PER_BYTE:
        raise ConfigError(
            f"{name} has {rows} out features, but the bitnet layout needs a multiple of {ROWS_PER_BYTE}.",
            "--format hf-compressed",
        )


def _quantization(model: PreTrainedModel) -> dict[str, object]:
    plain = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    return {
        "quant_method": "bitnet",
        "linear_class": "bitlinear",
        "quantization_mode": "offline",
        "modules_to_not_convert": plain,
    }
