"""Networks that are trained from the beginning, by the name that `--network` takes.

Each family has a file of its own, which makes one `Net`. Its network is a model of transformers: `PreTrainedModel`
saves and loads it, and gives it a configuration. In contrast to a family of encoders (family.py) nothing of it is
named but the two layers that quantisation often spares: the quantiser finds its tensors by walking through it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Net:
    """One family of networks.

    Attributes:
        model_type: its name in config.json.
        reads: the kind of task whose rows it reads.
        classes: imports and returns the classes of its configuration and its model; a function, because a command's
            help must not wait for torch.
        shapes: name of a network → what its configuration holds beside what a task determines.
        first: the module that reads the input, which `first` names where tensors are exempt.
        last: the module that gives the logits.
        about: name of a network → what it is, for `kdqat ls networks`.
    """

    model_type: str
    reads: str
    classes: Callable[[], tuple[Any, Any]]
    shapes: Mapping[str, Mapping[str, Any]]
    first: str
    last: str
    about: Mapping[str, str] = field(default_factory=dict)
