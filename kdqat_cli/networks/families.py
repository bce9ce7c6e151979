"""The families of encoders that kdqat knows, by the model type in config.json."""

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
        ConfigError: a family with this model type exists already.
    """
    if family.model_type in FAMILIES:
        raise ConfigError(f"A family with the model type {shown(family.model_type)} exists already.")
    FAMILIES[family.model_type] = family
    if family.own_classifier is not None:
        with_auto_classes(family.own_classifier.classes, family.own_classifier.needs)


def named(model_type: object) -> Family:
    """The family of a model type, which may come from a file.

    Raises:
        ConfigError: kdqat does not know it.
    """
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise ConfigError(f"kdqat does not know the architecture {shown(model_type)}; it knows {listed()}.")
    return family


def listed() -> str:
    """The architectures that kdqat knows, as part of a sentence."""
    whole = [name for name, family in FAMILIES.items() if family.own_classifier is None]
    return f"{', '.join(whole)}, and the encoder alone of {' and '.join(own_classifiers())}"


def configured(config: Config) -> Family:
    """The family of a model's config.json, with the names of parts that depend on it.

    Raises:
        ConfigError: kdqat does not know the architecture.
    """
    return named(config.get("model_type")).configured(config)


def own_classifiers() -> dict[str, OwnClassifier]:
    """Model type of transformers → kdqat's own classifier on its encoder."""
    own = [family.own_classifier for family in FAMILIES.values() if family.own_classifier is not None]
    return {source: one for one in own for source in one.sources}


for _family in (BERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT, MPNET, T5):
    register(_family)
