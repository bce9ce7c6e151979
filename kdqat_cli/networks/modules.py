"""Finds modules of a loaded classifier by the names in its family."""

from operator import attrgetter
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from kdqat_cli.networks.families import named
from kdqat_cli.networks.family import Family


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    return named(model.config.model_type)


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the encoder, the first one first."""
    return list(attrgetter(family_of(model).layers)(model.base_model))


def module_at(root: nn.Module, path: str) -> Any:
    """The module at a dotted path. It may be of any class, and torch does not declare the types of its attributes."""
    return attrgetter(path)(root)


def classifier_of(model: PreTrainedModel) -> nn.Linear:
    """The last linear of the head, with one row per label."""
    base = {id(module) for module in model.base_model.modules()}
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in base]
    return heads[-1]
