"""dense: the ternary values in a plain checkpoint of the architecture, for anything that reads one.

Nothing is packed, and nothing in such a checkpoint can say that activations are rounded: they are in full precision.
The values are the student's own, ŵ = α·q, bit for bit in FP32; in FP16 each scale and each tensor that is not ternary
is rounded to 11 bits.
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
        half: store FP16; it is loaded as FP32.

    Raises:
        ConfigError: transformers has no classifier of this architecture.
    """
    tensors = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    write_stock(model, tokenizer, folder, tensors, half)
