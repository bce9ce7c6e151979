"""Registers kdqat's classes with the auto classes of transformers when those are loaded.

This is a hook and not an import, because the classes need torch, and `kdqat --help` must not wait for torch.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import wrapt

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_AUTO = "transformers.models.auto.modeling_auto"
_LAYERS = "transformers.modeling_layers"  # every model of transformers imports it, and it imports _AUTO


def with_auto_classes(
    classes: "Callable[[], tuple[type[PreTrainedConfig], type[PreTrainedModel]]]", needs: tuple[str, ...]
) -> None:
    """Registers a configuration and its classifier with AutoConfig and AutoModelForSequenceClassification.

    Args:
        classes: imports and returns both.
        needs: modules that `classes` imports and that import the auto classes themselves. They may still be half loaded
            when the auto classes are loaded. So the last module to finish loading registers the classes.
    """
    waited_for = (_LAYERS, *needs, _AUTO)
    loaded: set[str] = set()
    done = False

    def ended(module: ModuleType) -> None:
        nonlocal done
        loaded.add(module.__name__)
        half_loaded = any(name in sys.modules and name not in loaded for name in waited_for)
        if done or half_loaded or _AUTO not in loaded:
            return
        done = True  # set first, because the next lines may load one of the modules
        from transformers.models.auto.configuration_auto import AutoConfig

        config, model = classes()
        AutoConfig.register(config.model_type, config, exist_ok=True)  # a configuration may be registered already
        auto = sys.modules[_AUTO]  # not `from transformers import`: the package may be half loaded
        auto.AutoModelForSequenceClassification.register(config, model)

    for name in waited_for:
        wrapt.register_post_import_hook(ended, name)
