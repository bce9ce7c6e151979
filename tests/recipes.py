"""Sections of a configuration, with changes for tests."""

from typing import Any

from kdqat_cli.config import Distillation, Quantization, Training


def quantization(**changes: Any) -> Quantization:
    """Ternary weights, and 8-bit activations with one scale per token and without a clamp; with changes."""
    values = {"weights": "ternary", "weight_clip": 2.5, "activations": "int8"}
    return Quantization.model_validate(values | {"activation_clip": None, "activation_scale": "token"} | changes)


def distillation(loss: str, **changes: Any) -> Distillation:
    """A distillation with a loss and β = 0.5, in which padding is ignored; with changes."""
    values = {"loss": loss, "mix": "SM1", "beta": 0.5, "temperature": 1.0, "labels": 0.0}
    values |= {"map_floor": None, "score_cutoff": None}
    return Distillation.model_validate(values | {"hidden_layers": "all", "padding": "ignored"} | changes)


def training(**changes: Any) -> Training:
    """Two epochs with AdamW, in batches of 8 that are padded to the longest row; with changes."""
    values: dict[str, Any] = {"epochs": 2, "max_steps": None, "learning_rate": 1e-3, "warmup": 0.1, "batch_size": 8}
    values |= {"keeps_more": "longer", "eval_before_end": 0, "keep_best": "score"}
    values |= {"max_length": None, "padding": "longest", "optimizer": "adamw", "precision": "fp32"}
    return Training.model_validate(values | {"weight_decay": 0.01, "gradient_clip": 1.0, "eval_every": None} | changes)
