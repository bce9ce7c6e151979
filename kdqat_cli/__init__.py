"""kdqat: quantised students of trained models, stored packed and served in integer arithmetic.

After `import kdqat_cli`, transformers can load packed folders and classifiers on T5's encoder:
`AutoModelForSequenceClassification.from_pretrained(folder)`.
"""

from types import ModuleType
from typing import TYPE_CHECKING

import wrapt

from kdqat_cli.networks import families  # noqa: F401 - registers their classes with transformers
from kdqat_cli.networks.auto_classes import with_auto_classes

if TYPE_CHECKING:
    from kdqat_cli.packing.hf_config import KdqatConfig
    from kdqat_cli.packing.hf_model import KdqatForSequenceClassification

__version__ = "0.1.0"


# Functions instead of imports, because the classes need torch, and `kdqat --help` must not wait for torch.
def _register_config(module: ModuleType) -> None:
    from kdqat_cli.packing.hf_config import MODEL_TYPE, KdqatConfig

    module.AutoConfig.register(MODEL_TYPE, KdqatConfig)


def _classes() -> "tuple[type[KdqatConfig], type[KdqatForSequenceClassification]]":
    from kdqat_cli.packing.hf_config import KdqatConfig
    from kdqat_cli.packing.hf_model import KdqatForSequenceClassification

    return KdqatConfig, KdqatForSequenceClassification


# Two hooks, because a program that only needs a configuration, for example for a tokenizer, does not load models.
wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
with_auto_classes(_classes, needs=("kdqat_cli.packing.hf_model",))
