"""The families of networks that are trained from random weights, and the names of their networks."""

import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.conv import CONV
from kdqat_cli.networks.net import Net
from kdqat_cli.networks.seq2seq import SEQ2SEQ
from kdqat_cli.networks.wide_resnet import WIDE_RESNET

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NETS: dict[str, Net] = {}
"""Model type in config.json → family."""


def register(net: Net) -> None:
    """Adds a family; the names of its networks are then values of `--network`.

    Raises:
        ValueError: its model type or the name of a network is taken.
    """
    taken = [name for name in (net.model_type, *net.shapes) if name in NETS or name in networks()]
    if taken:
        raise ValueError(f"the name {taken[0]!r} is taken")
    NETS[net.model_type] = net


def networks() -> dict[str, Net]:
    """Name of a network → its family."""
    return {name: net for net in NETS.values() for name in net.shapes}


def new_network(
    name: str, reads: str, fields: Mapping[str, object] | None = None, /, **config: object
) -> "PreTrainedModel":
    """A network with random weights.

    Args:
        name: a value of `--network`.
        reads: the kind of rows that it must read.
        fields: fields of the configuration that the user sets.
        config: fields of the configuration that a task determines, for example the labels or the size of an image.

    Raises:
        ConfigError: there is no such network, it reads other rows, or its configuration has no such field or value.
    """
    fitting = {known: net for known, net in networks().items() if net.reads == reads}
    if name not in fitting:
        close = difflib.get_close_matches(name, fitting, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(fitting) or 'none'}."
        raise ConfigError(
            f"There is no network {name!r} that reads rows of the kind {reads}; {meant}", "kdqat ls networks"
        )
    config_class, model_class = fitting[name].classes()
    free = {key: kind for key, kind in vars(config_class).get("__annotations__", {}).items() if key not in config}
    given = {key: _field(name, key, value, free) for key, value in (fields or {}).items()}
    return model_class(config_class(**{**fitting[name].shapes[name], **given}, **config))


def _field(network: str, name: str, value: object, free: Mapping[str, Any]) -> object:
    """The value of a field of a network's configuration.

    Raises:
        ConfigError: the network has no such field, or the value is of another type.
    """
    fix = f"--set network.{name}=null"
    if name not in free:
        known = ", ".join(sorted(free))
        raise ConfigError(f"network.{name}: the network {network} has no field {name}; its fields are {known}.", fix)
    try:
        return TypeAdapter(free[name]).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise ConfigError(f"network.{name}: {what[:1].lower()}{what[1:]}, but it is {shown(value)}.", fix) from error


for _net in (CONV, WIDE_RESNET, SEQ2SEQ):
    register(_net)
