"""Reads the weights of a student for the exporters of 2-bit weights."""

from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.errors import ConfigError
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.quantizers.parameters import quantized_layers


def ternary_codes(model: PreTrainedModel) -> dict[str, Codes]:
    """Name of a layer → its weight, on the CPU: levels (O, I) of -1, 0 and 1, scales (1,) or (O,).

    Args:
        model: a frozen student.

    Raises:
        ConfigError: the model has no quantised layers, or the formats cannot hold a weight.
    """
    weights = {}
    for name, layer in quantized_layers(model).items():
        if not layer.is_ternary:
            raise ConfigError(
                f"The student cannot be exported: {name} is {layer.described}, but this format holds only levels of "
                "-1, 0 and 1 with one scale per matrix or row.",
                "kdqat distill --weights ternary",
            )
        weights[name] = layer.codes().cpu()
    if not weights:
        raise ConfigError("The model has no ternary weights.", "kdqat distill")
    return weights


def other_tensors(model: PreTrainedModel, weights: dict[str, Codes]) -> dict[str, Tensor]:
    """All tensors of the model's state except `weights`, on the CPU."""
    names = {f"{name}.weight" for name in weights}
    return {name: tensor.cpu() for name, tensor in model.state_dict().items() if name not in names}
