"""A weight quantiser that is added from outside (tests/buckets.py): it trains, freezes, saves and loads."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from kdqat_cli.config import Quantization, parse
from kdqat_cli.engine.student import native_student
from kdqat_cli.errors import ConfigError
from kdqat_cli.names import LEVELS
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.packing.codes_file import CODES
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.quantizers.weights import WEIGHTS, register
from kdqat_cli.record import BY_LENGTH, Record
from kdqat_cli.tasks.text.models import load_classifier, save_classifier
from tests.buckets import Buckets
from tests.recipes import quantization


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(Buckets())
    yield
    del WEIGHTS[Buckets.name], LEVELS[Buckets.name]


@pytest.fixture
def settings() -> Quantization:
    return quantization(weights=Buckets.name)


def by_hand(weight: Tensor) -> Tensor:
    """The formula for one bucket after the other, in float64."""
    out = []
    for bucket in torch.split(weight.detach().double().clamp(-2.5, 2.5).flatten(), 48):
        scale = float(bucket.abs().max()) / 3
        out += [round(value / scale) * scale if scale else 0.0 for value in bucket.tolist()]
    return torch.tensor(out, dtype=torch.float64).view_as(weight)


def test_it_trains_and_agrees_with_its_formula(
    model: PreTrainedModel, batch: dict[str, Tensor], settings: Quantization
) -> None:
    plain = copy.deepcopy(model).double()
    quantize_model(model.double(), settings)
    layers = quantized_layers(model)
    for name, layer in layers.items():
        plain.get_submodule(name).weight.data.copy_(by_hand(layer.weight))
        torch.testing.assert_close(layer.codes().value(), by_hand(layer.weight))
    ids = batch["input_ids"]
    words = model.get_input_embeddings()
    torch.testing.assert_close(words(ids), plain.get_input_embeddings()(ids))
    model.train()(**batch, labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in layers.values())


def test_it_freezes_saves_and_loads(
    model: PreTrainedModel, batch: dict[str, Tensor], settings: Quantization, tiny_encoder: Path, tmp_path: Path
) -> None:
    quantize_model(model, settings)
    latent = model(**batch).logits
    freeze(model)
    assert torch.equal(model(**batch).logits, latent)
    record = Record(kind="ternary", quantization=settings, max_length=16, batches=BY_LENGTH)
    save_classifier(model, AutoTokenizer.from_pretrained(tiny_encoder), tmp_path, record)
    loaded = load_classifier(tmp_path)
    assert loaded.record.quantization == settings
    assert torch.equal(loaded.model(**batch).logits, latent)
    for name, layer in quantized_layers(loaded.model).items():
        codes, saved = layer.codes(), quantized_layers(model)[name].codes()
        assert torch.equal(codes.levels, saved.levels)
        assert torch.equal(codes.scales, saved.scales)
        assert codes.grouping == Buckets.grouping
    (tmp_path / CODES).unlink()
    assert torch.equal(load_classifier(tmp_path).model(**batch).logits, latent), "only from the floats"


def test_it_is_packed_and_served_by_torch(
    model: PreTrainedModel, batch: dict[str, Tensor], settings: Quantization, tmp_path: Path
) -> None:
    quantize_model(model, settings)
    assert native_student(model) is None
    freeze(model)
    save_packed(model, tmp_path, Record(quantization=settings))
    size = (tmp_path / FILE_NAME).stat().st_size
    assert size < sum(4 * parameter.numel() for parameter in model.parameters()) / 2
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_the_name_is_a_setting_once_registered(settings: Quantization, tmp_path: Path) -> None:
    values = settings.model_dump()
    assert parse(Quantization, values, "here") == settings
    with pytest.raises(
        ConfigError,
        match=r"weights: input should be 'fp32', 'ternary', 'int4', 'int8', 'uniform', 'points' or 'bucket3', but",
    ):
        parse(Quantization, values | {"weights": "bucket2"}, "here")
    with pytest.raises(ValueError, match="the name 'bucket3' is taken"):
        register(Buckets())
