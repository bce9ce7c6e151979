"""The codes beside a student's weights: they are read back unchanged, or refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from kdqat_cli.errors import MissingInputError
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.codes_file import CODES, load_codes, save_codes
from kdqat_cli.quantizers.codes import ROW, Codes, Grouping
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.quantizers.weights import StraightThrough
from tests.recipes import quantization

WORDS = "bert.embeddings.word_embeddings"


def student(model: PreTrainedModel, weights: str) -> PreTrainedModel:
    quantize_model(model, quantization(weights=weights))
    freeze(model)
    return model


def loaded(folder: Path, weights: str) -> PreTrainedModel:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    quantize_model(model, quantization(weights=weights))
    load_codes(model, folder, "kdqat distill")
    return model


@pytest.mark.parametrize("weights", ["ternary", "int4", "int8"])
def test_saved_codes_are_read_back_with_and_without_the_file(
    weights: str, model: PreTrainedModel, tmp_path: Path
) -> None:
    saved = quantized_layers(student(model, weights))
    model.save_pretrained(tmp_path)
    save_codes(model, tmp_path)
    assert (tmp_path / CODES).stat().st_size < (tmp_path / "model.safetensors").stat().st_size / 2
    with_codes = quantized_layers(loaded(tmp_path, weights))
    (tmp_path / CODES).unlink()
    without = quantized_layers(loaded(tmp_path, weights))
    for name, layer in saved.items():
        assert torch.equal(with_codes[name].codes().levels, layer.codes().levels)
        assert torch.equal(with_codes[name].codes().scales, layer.codes().scales)
        assert torch.equal(without[name].codes().levels, layer.codes().levels)
        assert torch.equal(without[name].weight, layer.weight)
        assert with_codes[name].frozen
        assert without[name].frozen


def pointed(model: PreTrainedModel) -> PreTrainedModel:
    """A student whose codes have offsets and points: two levels, at a quarter and three quarters of a row."""
    quantize_model(model, quantization(weights="int4"))
    for layer in quantized_layers(model).values():
        layer.freeze(Pointed().codes(layer.weight.detach(), ROW))
        layer.weight_quantizer = StraightThrough(Pointed(), None)
    return model


class Pointed:
    """Two points per row, at a quarter and three quarters of its range."""

    name, levels, grouping = "pointed", range(2), ROW

    def codes(self, latent: Tensor, grouping: Grouping) -> Codes:
        low, high = latent.amin(1), latent.amax(1)
        levels = (latent > ((low + high) / 2)[:, None]).to(torch.uint8)
        return Codes(levels, high - low, ROW, low, torch.tensor([0.25, 0.75]))


def read_pointed(folder: Path, other: PreTrainedModel) -> PreTrainedModel:
    read = pointed(other)
    read.load_state_dict(AutoModelForSequenceClassification.from_pretrained(folder).state_dict())
    load_codes(read, folder, "kdqat distill")
    return read


def test_offsets_and_points_are_read_back(model: PreTrainedModel, tmp_path: Path) -> None:
    saved = quantized_layers(pointed(model))
    model.save_pretrained(tmp_path)
    save_codes(model, tmp_path)
    assert {name.rpartition(".")[2] for name in load_file(tmp_path / CODES)} == {
        "levels",
        "scales",
        "offsets",
        "points",
    }
    read = quantized_layers(read_pointed(tmp_path, copy.deepcopy(model)))
    for name, layer in saved.items():
        parts = read[name].codes().tensors()
        assert all(torch.equal(parts[part], values) for part, values in layer.codes().tensors().items())
        assert not layer.is_ternary


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("offsets", lambda values: values[:1], "1,. offsets do not fit"),
        ("offsets", lambda values: values.double(), "the offsets are torch.float64"),
        ("offsets", lambda _: None, "do not give the weight in"),
        ("points", lambda values: values.half(), "the points are torch.float16"),
        ("points", lambda values: values[:1], "a level is not in 0 to 0"),
        ("points", lambda values: values[:0], "a level is not in 0 to -1"),
        ("points", lambda values: values[None], "a level is not in 0 to 0"),
        ("points", lambda values: values + 1, "do not give the weight in"),
    ],
)
def test_offsets_and_points_that_do_not_fit_are_refused(
    part: str,
    change: Callable[[Tensor], Tensor | None],
    sentence: str,
    model: PreTrainedModel,
    tmp_path: Path,
) -> None:
    pointed(model).save_pretrained(tmp_path)
    save_codes(model, tmp_path)
    tensors = load_file(tmp_path / CODES)
    changed = change(tensors.pop(f"{WORDS}.{part}"))
    if changed is not None:
        tensors[f"{WORDS}.{part}"] = changed.clone()
    save_file(tensors, tmp_path / CODES)
    with pytest.raises(MissingInputError, match=sentence):
        read_pointed(tmp_path, model)


def test_a_plain_model_gets_no_file(model: PreTrainedModel, tmp_path: Path) -> None:
    save_codes(model, tmp_path)
    assert not (tmp_path / CODES).exists()


def missing(tensors: dict[str, Tensor]) -> None:
    del tensors[f"{WORDS}.scales"]


def left_over(tensors: dict[str, Tensor]) -> None:
    tensors["other.scales"] = torch.ones(1)


def of_other_shape(tensors: dict[str, Tensor]) -> None:
    tensors[f"{WORDS}.levels"] = tensors[f"{WORDS}.levels"][:-1].clone()


def of_other_type(tensors: dict[str, Tensor]) -> None:
    tensors[f"{WORDS}.levels"] = tensors[f"{WORDS}.levels"].float()


def scales_of_other_type(tensors: dict[str, Tensor]) -> None:
    tensors[f"{WORDS}.scales"] = tensors[f"{WORDS}.scales"].half()


def too_few_scales(tensors: dict[str, Tensor]) -> None:
    tensors[f"{WORDS}.scales"] = tensors[f"{WORDS}.scales"][:1].clone()


def out_of_range(tensors: dict[str, Tensor]) -> None:
    tensors[f"{WORDS}.levels"] *= 2


def of_another_weight(tensors: dict[str, Tensor]) -> None:
    tensors[f"{WORDS}.scales"] *= 2


DAMAGES = {
    missing: r"word_embeddings\.scales is missing",
    left_over: r"other\.scales belongs to no layer",
    of_other_shape: "the levels are",
    of_other_type: "of torch.float32",
    scales_of_other_type: "the scales are torch.float16",
    too_few_scales: "scales do not fit",
    out_of_range: "a level is not in -1 to 1",
    of_another_weight: r"the codes of \S*word_embeddings do not give the weight in model\.safetensors",
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_codes_that_do_not_fit_are_refused(
    damage: Callable[[dict[str, Tensor]], None], sentence: str, model: PreTrainedModel, tmp_path: Path
) -> None:
    student(model, "ternary").save_pretrained(tmp_path)
    save_codes(model, tmp_path)
    tensors = load_file(tmp_path / CODES)
    damage(tensors)
    save_file(tensors, tmp_path / CODES)
    with pytest.raises(MissingInputError, match=sentence) as caught:
        loaded(tmp_path, "ternary")
    assert caught.value.fix == "kdqat distill"


def test_a_cut_file_is_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    student(model, "ternary").save_pretrained(tmp_path)
    save_codes(model, tmp_path)
    content = (tmp_path / CODES).read_bytes()
    for length in (0, 7, len(content) - 1):
        (tmp_path / CODES).write_bytes(content[:length])
        with pytest.raises(MissingInputError, match="truncated"):
            loaded(tmp_path, "ternary")


def test_floats_that_contradict_the_record_are_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    student(model, "int8").save_pretrained(tmp_path)
    with pytest.raises(MissingInputError, match="not ternary, 3 levels with one scale per row: no multiples"):
        loaded(tmp_path, "ternary")
