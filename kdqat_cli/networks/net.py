"""The type of a family of networks that are trained from random weights.

Each family has a file that makes one `Net`. Its networks are models of transformers: `PreTrainedModel` saves and loads
them and gives them a configuration. Unlike a family of encoders (family.py), a `Net` names only the first and the last
layer, which quantisation often leaves out: the quantiser finds all other tensors by walking through the modules.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Shapes = Mapping[str, Mapping[str, object]]
"""Name of a network → fields of its configuration."""


@dataclass(frozen=True)
class Net:
    """One family of networks.

    Attributes:
        model_type: name of the family in config.json.
        reads: the kind of task whose rows it reads.
        classes: imports and returns the classes of its configuration and its model. It is a function because the help
            of a command must not wait for torch.
        shapes: name of a network → the fields of its configuration that a task does not determine.
        first: the module that reads the input; `first` in `quantization.exempt` means it.
        last: the module that gives the logits; `last` in `quantization.exempt` means it.
        about: name of a network → what it is, for `kdqat ls networks`.
    """

    model_type: str
    reads: str
    classes: "Callable[[], tuple[type[PreTrainedConfig], type[PreTrainedModel]]]"
    shapes: Shapes
    first: str
    last: str
    about: Mapping[str, str] = field(default_factory=dict)
