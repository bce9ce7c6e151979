"""Packed networks (trained from random weights): they are read back bit for bit, with any layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from kdqat_cli.codecs.catalogue import decode
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing import coded
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.packing.network import load_network, save_network
from kdqat_cli.packing.packed_file import digest, to_json
from kdqat_cli.quantizers.parameters import freeze, plain_state, quantized_weights
from kdqat_cli.record import Record
from kdqat_cli.tasks.records import recorded
from kdqat_cli.tasks.registry import kind_named
from tests.recipes import quantization

SETTINGS: dict[str, dict[str, Any]] = {
    "ternary": {"weights": "ternary"},
    "uniform, vectors too": {"weights": "uniform", "bits": 2, "vectors": True},
    "uniform, exempt": {"weights": "uniform", "exempt": ["first", "last"]},
    "points": {"weights": "points", "bits": 2},
}
LABELS = ["a", "b", "c"]


def trained(**changes: Any) -> tuple[PreTrainedModel, Record]:
    """A frozen student whose batch norms have statistics of real batches."""
    torch.manual_seed(0)
    ids = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    model: PreTrainedModel = new_network("conv-digits-small", "image", image=(1, 8, 8), **ids)
    settings = quantization(activations="fp32", **changes)
    quantize_model(model, settings)
    model.train()(pixel_values=torch.randn(16, 1, 8, 8))
    freeze(model.eval())
    return model, Record(kind="packed", rows_kind="image", labels=LABELS, quantization=settings)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    out: torch.Tensor = model(pixel_values=images).logits
    return out


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_is_read_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, record = trained(**SETTINGS[name])
    save_network(model, tmp_path, record)
    loaded = kind_named("image").load(str(tmp_path))
    assert loaded.record == record == recorded(tmp_path)
    assert loaded.weights == tmp_path / FILE_NAME
    assert torch.equal(logits(loaded.model), logits(model))
    state = plain_state(model)
    for key, values in plain_state(loaded.model).items():
        assert not values.is_meta
        assert not values.is_floating_point() or torch.equal(values, state[key])
    for key, weight in quantized_weights(model).items():
        codes, saved = quantized_weights(loaded.model)[key].codes(), weight.codes()
        assert all(torch.equal(values, codes.tensors()[part]) for part, values in saved.tensors().items())
    assert (tmp_path / FILE_NAME).stat().st_size < sum(4 * values.numel() for values in state.values())


def changed(path: Path, change: Any) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["kdqat"])
    arrays = load_file(path)
    change(arrays, header)
    header.pop("sha256")
    header["sha256"] = digest(arrays, header)
    save_file(arrays, path, {"kdqat": to_json(header)})


def without_norm(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    del arrays["convolutions.0.norm.running_mean"]


def more_channels(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["config"]["channels"] = [16, 16]


def far_more_channels(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["config"]["channels"] = [2**30, 2**30]


def no_channels(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["config"]["channels"] = "many"


def fewer_quantised(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["about"]["quantization"]["exempt"] = ["last"]


def more_quantised(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["about"]["quantization"]["vectors"] = True


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_norm, r"convolutions\.0\.norm\.running_mean does not fit"),
        (more_channels, r"convolutions\.0\.conv\.bias does not fit"),
        (far_more_channels, "configuration is damaged"),
        (no_channels, "configuration is damaged"),
        (fewer_quantised, "other parameters are quantised"),
        (more_quantised, "other parameters are quantised"),
    ],
)
def test_a_wrong_file_with_a_correct_digest_is_refused(change: Any, sentence: str, tmp_path: Path) -> None:
    model, record = trained(weights="uniform")
    save_network(model, tmp_path, record)
    changed(tmp_path / FILE_NAME, change)
    with pytest.raises(MissingInputError, match=sentence):
        load_network(tmp_path / FILE_NAME)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="rows of the kind 'smell'; it knows text, image"):
        kind_named("smell")


def test_each_weight_is_decoded_once_and_never_for_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, record = trained(weights="uniform", bits=2)
    save_network(model, tmp_path, record, codec="huffman")
    decoded: list[str] = []

    def counting(codec: str, stream: Any, count: int) -> Any:
        decoded.append(codec)
        return decode(codec, stream, count)

    monkeypatch.setattr(coded, "decode", counting)
    assert recorded(tmp_path).labels == LABELS
    assert not decoded
    kind_named("image").load(str(tmp_path))
    assert len(decoded) == len(quantized_weights(model))
    data = bytearray((tmp_path / FILE_NAME).read_bytes())
    data[data.index(b"rows_kind") + 15] ^= 1
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(MissingInputError, match="altered"):
        kind_named("image").load(str(tmp_path))
