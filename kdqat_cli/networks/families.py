"""The families of encoders that kdqat knows, by the model type of config.json."""

from typing import Any

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.auto_classes import with_auto_classes
from kdqat_cli.networks.bert import BERT
from kdqat_cli.networks.distilbert import DISTILBERT
from kdqat_cli.networks.electra import ELECTRA
from kdqat_cli.networks.family import Config, Family, OwnClassifier
from kdqat_cli.networks.mpnet import MPNET
from kdqat_cli.networks.roberta import ROBERTA, XLM_ROBERTA
from kdqat_cli.networks.t5 import T5

FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Adds a family, so that every command takes its models.

    Raises:
        ConfigError: there is a family of this model type already.
    """
    if family.model_type in FAMILIES:
        raise ConfigError(f"There is a family of the model type {shown(family.model_type)} already.")
    FAMILIES[family.model_type] = family
    if family.own_classifier is not None:
        with_auto_classes(family.own_classifier.classes, family.own_classifier.needs)


def named(model_type: Any) -> Family:
    """The family of a model type.

    Raises:
        ConfigError: kdqat does not know it.
    """
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise ConfigError(f"kdqat does not know the architecture {shown(model_type)}; it knows {listed()}.")
    return family


def listed() -> str:
    """The architectures that kdqat knows, as a sentence names them."""
    whole = [name for name, family in FAMILIES.items() if family.own_classifier is None]
    return f"{', '.join(whole)}, and the encoder alone of {' and '.join(own_classifiers())}"


def configured(config: Config) -> Family:
    """The family of a model's config.json, with the names that it gives the parts.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    return named(config.get("model_type")).configured(config)


def own_classifiers() -> dict[str, OwnClassifier]:
    """Model type of transformers → the classifier of kdqat's own on its encoder."""
    own = [family.own_classifier for family in FAMILIES.values() if family.own_classifier is not None]
    return {source: one for one in own for source in one.sources}


for _family in (BERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT, MPNET, T5):
    register(_family)
