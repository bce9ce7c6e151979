"""kdqat: Transformer encoders with ternary weights.

After `import kdqat_cli`, transformers loads packed folders, and classifiers on T5's encoder:
`AutoModelForSequenceClassification.from_pretrained(folder)`.
"""

from typing import Any

import wrapt

from kdqat_cli.networks import families  # noqa: F401 - registers their classes with transformers
from kdqat_cli.networks.auto_classes import with_auto_classes

__version__ = "0.1.0"


# Functions instead of imports: what is registered needs torch, and `kdqat --help` must not wait for it.
def _register_config(module: Any) -> None:
    from kdqat_cli.packing.hf_config import MODEL_TYPE, KdqatConfig

    module.AutoConfig.register(MODEL_TYPE, KdqatConfig)


def _classes() -> tuple[Any, Any]:
    from kdqat_cli.packing.hf_config import KdqatConfig
    from kdqat_cli.packing.hf_model import KdqatForSequenceClassification

    return KdqatConfig, KdqatForSequenceClassification


# Twice: who asks for a configuration alone, as a tokenizer does, loads no model.
wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
with_auto_classes(_classes, needs=("kdqat_cli.packing.hf_model",))
