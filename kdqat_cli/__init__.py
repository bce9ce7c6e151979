"""kdqat: Transformer encoders with ternary weights.

After `import kdqat_cli`, transformers loads packed folders, and classifiers on T5's encoder:
`AutoModelForSequenceClassification.from_pretrained(folder)`.
"""

from typing import Any

import wrapt

__version__ = "0.1.0"


# Hooks instead of imports: registration needs torch, and `kdqat --help` must not wait for it.
def _register_config(module: Any) -> None:
    from kdqat_cli.packing.hf_config import MODEL_TYPE, KdqatConfig

    module.AutoConfig.register(MODEL_TYPE, KdqatConfig)


def _register_model(module: Any) -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from kdqat_cli.packing.hf_config import KdqatConfig
    from kdqat_cli.packing.hf_model import KdqatForSequenceClassification
    from kdqat_cli.t5.config import T5EncoderConfig
    from kdqat_cli.t5.model import T5EncoderForSequenceClassification

    module.AutoModelForSequenceClassification.register(KdqatConfig, KdqatForSequenceClassification)
    # T5's configuration loads the auto models, so that no earlier hook can register it.
    AutoConfig.register(T5EncoderConfig.model_type, T5EncoderConfig)
    module.AutoModelForSequenceClassification.register(T5EncoderConfig, T5EncoderForSequenceClassification)


wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
wrapt.register_post_import_hook(_register_model, "transformers.models.auto.modeling_auto")
