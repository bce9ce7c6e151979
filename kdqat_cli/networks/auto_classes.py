"""Registers classes of kdqat's with transformers' auto classes as soon as those are loaded.

A hook instead of an import: the classes need torch, and `kdqat --help` must not wait for it.
"""

import sys
from collections.abc import Callable
from typing import Any

import wrapt

_AUTO = "transformers.models.auto.modeling_auto"
_LAYERS = "transformers.modeling_layers"  # imports _AUTO, and every model of transformers imports it


def with_auto_classes(classes: Callable[[], tuple[Any, Any]], needs: tuple[str, ...]) -> None:
    """Registers a configuration and its classifier with AutoConfig and AutoModelForSequenceClassification.

    Args:
        classes: imports and returns them.
        needs: modules that `classes` imports and that import the auto classes themselves. When the auto classes are
            loaded these may still be half loaded, with nothing to import; then the last of them to end registers.
    """
    waited_for = (_LAYERS, *needs, _AUTO)
    loaded: set[str] = set()
    done = False

    def ended(module: Any) -> None:
        nonlocal done
        loaded.add(module.__name__)
        half_loaded = any(name in sys.modules and name not in loaded for name in waited_for)
        if done or half_loaded or _AUTO not in loaded:
            return
        done = True  # first: what follows may load one of them
        from transformers.models.auto.configuration_auto import AutoConfig

        config, model = classes()
        AutoConfig.register(config.model_type, config, exist_ok=True)  # a configuration may be known already
        auto: Any = sys.modules[_AUTO]  # `from transformers import` may find its package half loaded
        auto.AutoModelForSequenceClassification.register(config, model)

    for name in waited_for:
        wrapt.register_post_import_hook(ended, name)
