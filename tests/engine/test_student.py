"""A student in memory on the engine: its logits equal those of its packed file, and torch computes the rest."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.student import native_student
from kdqat_cli.errors import ConfigError
from kdqat_cli.native.library import KERNEL_VARIABLE, TORCH
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.parameters import freeze
from tests.architectures import tiny
from tests.engine.test_engine import LENGTHS, VARIANTS, native, pack, sequences
from tests.recipes import quantization


def student(architecture: str = "bert", **changes: Any) -> PreTrainedModel:
    model = tiny(architecture)
    quantize_model(model, quantization(**changes))
    return model


@native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("clip", [None, 0.9])
def test_logits_equal_those_of_the_packed_file_bit_for_bit(
    variant: str, frozen: bool, clip: float | None, tmp_path: Path
) -> None:
    architecture, options = VARIANTS[variant]
    model = tiny(architecture, **options)
    packed = Engine.load(pack(tmp_path, deepcopy(model), activation_clip=clip))
    quantize_model(model, quantization(weight_clip=None, activation_clip=clip))
    if frozen:
        freeze(model)
    served, rows = native_student(model), sequences(model, LENGTHS)
    assert served is not None
    assert np.array_equal(served.logits(rows), packed.logits(rows))


@native
def test_a_student_that_continues_training_is_unchanged_and_gets_a_new_engine(tmp_path: Path) -> None:
    model = student()
    rows = sequences(model, LENGTHS)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []
    for _ in range(2):
        before = {name: values.clone() for name, values in model.state_dict().items()}
        served = native_student(model)
        assert served is not None
        seen.append(served.logits(rows))
        assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
        model(input_ids=torch.tensor([rows[0][0]]), labels=torch.tensor([1])).loss.backward()
        optimizer.step()
        assert np.array_equal(served.logits(rows), seen[-1]), "an engine keeps the weights that it got"
    assert not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize(
    "changes", [{"activations": "fp32"}, {"weights": "int4"}, {"weights": "int8"}, {"activation_scale": "batch"}]
)
def test_other_quantisation_is_computed_by_torch(changes: dict[str, Any]) -> None:
    assert native_student(student(**changes)) is None


def test_other_models_and_types_are_computed_by_torch() -> None:
    assert native_student(tiny("bert")) is None
    assert native_student(student().double()) is None
    unserved = tiny("bert", hidden_act="silu")
    quantize_model(unserved, quantization())
    assert native_student(unserved) is None


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.LayerNorm.weight"]
)
def test_a_student_with_nan_is_computed_by_torch(name: str) -> None:
    """Rounding to 8 bits and softmax would turn NaN into valid numbers."""
    model = student()
    with torch.no_grad():
        model.get_parameter(name)[0] = torch.nan
    assert native_student(model) is None


@native
def test_the_variable_chooses_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, TORCH)
    assert native_student(student()) is None
    monkeypatch.setenv(KERNEL_VARIABLE, "abacus")
    with pytest.raises(ConfigError, match="abacus"):
        native_student(student())
