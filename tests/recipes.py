"""Sections of a configuration, as the tests change them."""

from typing import Any

from kdqat_cli.config import Distillation, Quantization, Training


def quantization(**changes: Any) -> Quantization:
    """Ternary weights, 8-bit activations with one scale a token, no clamp of the activations; changed."""
    values = {"weights": "ternary", "weight_clip": 2.5, "activations": "int8"}
    return Quantization.model_validate(values | {"activation_clip": None, "activation_scale": "token"} | changes)


def distillation(loss: str, **changes: Any) -> Distillation:
    """A distillation by `loss` with β = 0.5, in which padding does not count; changed."""
    values = {"loss": loss, "mix": "SM1", "beta": 0.5, "temperature": 1.0, "labels": 0.0}
    values |= {"map_floor": None, "score_cutoff": None}
    return Distillation.model_validate(values | {"hidden_layers": "all", "padding": "ignored"} | changes)


def training(**changes: Any) -> Training:
    """Two epochs in batches of 8, padded to the longest row, by AdamW; changed."""
    values: dict[str, Any] = {"epochs": 2, "max_steps": None, "learning_rate": 1e-3, "warmup": 0.1, "batch_size": 8}
    values |= {"keeps_more": "longer", "eval_before_end": 0, "keep_best": "score"}
    values |= {"max_length": None, "padding": "longest", "optimizer": "adamw", "precision": "fp32"}
    return Training.model_validate(values | {"weight_decay": 0.01, "gradient_clip": 1.0, "eval_every": None} | changes)
