"""The families of networks that are trained from the beginning, and the names of their networks."""

import difflib
from typing import Any

from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.conv import CONV
from kdqat_cli.networks.net import Net
from kdqat_cli.networks.seq2seq import SEQ2SEQ
from kdqat_cli.networks.wide_resnet import WIDE_RESNET

NETS: dict[str, Net] = {}
"""Model type of config.json → family."""


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


def new_network(name: str, reads: str, **config: Any) -> Any:
    """A network with random weights.

    Args:
        name: a value of `--network`.
        reads: the kind of rows that it must read.
        config: what a task determines of the configuration: the labels, an image's size.

    Raises:
        ConfigError: there is no such network, or it reads other rows.
    """
    fitting = {known: net for known, net in networks().items() if net.reads == reads}
    if name not in fitting:
        close = difflib.get_close_matches(name, fitting, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(fitting) or 'none'}."
        raise ConfigError(
            f"There is no network {name!r} that reads rows of the kind {reads}; {meant}", "kdqat ls networks"
        )
    config_class, model_class = fitting[name].classes()
    return model_class(config_class(**fitting[name].shapes[name], **config))


for _net in (CONV, WIDE_RESNET, SEQ2SEQ):
    register(_net)
