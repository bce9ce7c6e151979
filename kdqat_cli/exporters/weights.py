"""What every exporter reads of a student."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.errors import ConfigError
from kdqat_cli.quantizers.layers import QuantizedEmbedding, quantized_layers
from kdqat_cli.quantizers.ternary import split


@dataclass(frozen=True)
class Ternary:
    """A ternary weight in its parts.

    Attributes:
        codes: (O, I), int8 in {-1, 0, 1}.
        scales: (1,) or (O,), FP32.
        embedding: a table of word embeddings, not the matrix of a linear.
    """

    codes: Tensor
    scales: Tensor
    embedding: bool


def ternary_weights(model: PreTrainedModel) -> dict[str, Ternary]:
    """Layer name → its weight, on the CPU.

    Args:
        model: a frozen student.

    Raises:
        ConfigError: the model has no ternary layers, or some that are not.
    """
    weights = {}
    for name, layer in quantized_layers(model).items():
        try:
            codes, scales = split(layer.weight.detach().cpu(), layer.granularity)
        except ValueError as error:
            raise ConfigError(
                f"The weight of {name} is not ternary; this format holds ternary weights only."
            ) from error
        weights[name] = Ternary(codes, scales, isinstance(layer, QuantizedEmbedding))
    if not weights:
        raise ConfigError("The model has no ternary weights.", "kdqat distill")
    return weights


def other_tensors(model: PreTrainedModel, weights: dict[str, Ternary]) -> dict[str, Tensor]:
    """Every tensor of the model's state that is not one of `weights`, on the CPU."""
    names = {f"{name}.weight" for name in weights}
    return {name: tensor.cpu() for name, tensor in model.state_dict().items() if name not in names}
