"""Copies an encoder's classifier with fewer layers, as the start of a smaller student."""

import re
from copy import deepcopy

from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.captures import Captures
from kdqat_cli.networks.modules import family_of, layers_of


def with_layers(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """A copy of a classifier with some of its layers.

    Args:
        model: a classifier in full precision; it is not changed.
        kept: numbers of the layers to keep, from 0, in rising order.

    Raises:
        ConfigError: there is no such layer, or the numbers do not rise.
    """
    count = len(layers_of(model))
    if not kept or sorted(set(kept)) != kept or not 0 <= kept[0] <= kept[-1] < count:
        numbers = ",".join(map(str, kept))
        every = ",".join(map(str, range(0, count, 2)))
        raise ConfigError(
            f"The layers {numbers} must be rising numbers from 0 to {count - 1}, the layers of the teacher.",
            f"--layers {every}",
        )
    family, config = family_of(model), deepcopy(model.config)
    setattr(config, family.sizes.get("layers", "num_hidden_layers"), len(kept))
    own = re.compile(rf"{re.escape(family.base)}\.{re.escape(family.layers)}\.(\d+)\.")
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        found = own.match(name)
        if found is None:
            state[name] = tensor
        elif int(found[1]) in kept:
            state[family.layer(kept.index(int(found[1]))) + name[found.end() :]] = tensor
    if family.relative is not None:  # T5's table is in its first layer, and all layers use it
        state[family.relative] = model.state_dict()[family.relative]
    made = type(model)(config)
    made.load_state_dict(state)
    return made.to(model.device).train(model.training)


def matched_states(kept: list[int], layers: int, pre_norm: bool) -> list[int]:
    """The hidden states of a teacher that are compared with those of a student with some of its layers.

    They are the input of the first layer and the output of each layer that was kept. In a pre-norm encoder, the last
    one is the last of the teacher, because only that one is normalised.

    Args:
        kept: numbers of the layers that the student has, from 0.
        layers: number of layers of the teacher.
        pre_norm: see `Family`.
    """
    states = [0, *(number + 1 for number in kept)]
    return [*states[:-1], layers] if pre_norm else states


def keep_layers(taught: Captures, layers: list[int], pre_norm: bool) -> None:
    """Removes those captures of a teacher that are not compared with a student with some of its layers.

    Args:
        taught: captures of all layers of the teacher; changed in place.
        layers: numbers of the layers that the student has, from 0.
        pre_norm: see `Family`.
    """
    if taught.hidden:
        states = matched_states(layers, len(taught.hidden) - 1, pre_norm)
        taught.hidden = [taught.hidden[state] for state in states]
    for name in ("scores", "outputs", "mha", "values"):
        tensors = getattr(taught, name)
        setattr(taught, name, [tensors[layer] for layer in layers] if tensors else [])
