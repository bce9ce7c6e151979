"""dense: the ternary weights as floats in a plain checkpoint of the architecture, for any program that reads it.

Nothing is packed. A plain checkpoint cannot say that activations are rounded, so they are in full precision. The values
ŵ = α·q equal the student's bit for bit in FP32. In FP16, each scale and each tensor that is not ternary is rounded to
11 bits.
"""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.exporters.stock import write_stock


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, half: bool = False) -> None:
    """Writes config.json, model.safetensors and the tokenizer.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer.
        folder: an existing folder.
        half: store all tensors as FP16; they are loaded as FP32.

    Raises:
        ConfigError: transformers has no classifier of this architecture.
    """
    tensors = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    write_stock(model, tokenizer, folder, tensors, half)
