"""kdqat: Transformer encoders with ternary weights.

After `import kdqat_cli`, transformers loads packed folders, and classifiers on T5's encoder:
`AutoModelForSequenceClassification.from_pretrained(folder)`.
"""

import sys
from typing import Any

import wrapt

__version__ = "0.1.0"

_AUTO = "transformers.models.auto.modeling_auto"
# Our models need these, and they import _AUTO: when that ends they may still be half loaded, with nothing to import.
_AROUND = ("transformers.modeling_layers", "transformers.models.t5.modeling_t5")
_OURS = "kdqat_cli"
_loaded: set[str] = set()  # of these, and _OURS once our models are registered


# Hooks instead of imports: registration needs torch, and `kdqat --help` must not wait for it.
def _register_config(module: Any) -> None:
    from kdqat_cli.packing.hf_config import MODEL_TYPE, KdqatConfig

    module.AutoConfig.register(MODEL_TYPE, KdqatConfig)


def _register_models(module: Any) -> None:
    _loaded.add(module.__name__)
    half_loaded = [name for name in _AROUND if name in sys.modules and name not in _loaded]
    if _OURS in _loaded or half_loaded or _AUTO not in _loaded:
        return  # the last of them to end comes here again
    _loaded.add(_OURS)  # first: what follows may load one of them
    from transformers.models.auto.configuration_auto import AutoConfig

    from kdqat_cli.networks.t5_config import T5EncoderConfig
    from kdqat_cli.networks.t5_model import T5EncoderForSequenceClassification
    from kdqat_cli.packing.hf_config import KdqatConfig
    from kdqat_cli.packing.hf_model import KdqatForSequenceClassification

    auto: Any = sys.modules[_AUTO].AutoModelForSequenceClassification
    auto.register(KdqatConfig, KdqatForSequenceClassification)
    # T5's configuration loads the auto models, so that no earlier hook can register it.
    AutoConfig.register(T5EncoderConfig.model_type, T5EncoderConfig)
    auto.register(T5EncoderConfig, T5EncoderForSequenceClassification)


wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
for _name in (*_AROUND, _AUTO):
    wrapt.register_post_import_hook(_register_models, _name)
