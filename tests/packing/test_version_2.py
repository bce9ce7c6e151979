"""Version 2 of the packed file: all codes with all codecs are read back and served, and other files are refused."""

import copy
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import kdqat_cli  # noqa: F401 - its import is what registers the format
from kdqat_cli.config import CodecName
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.native_model import NativeModel
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.native.library import kernels
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.packing.packed_file import PackedFile, digest, to_json
from kdqat_cli.quantizers.codes import ROW, Codes
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.record import Record
from tests.recipes import quantization

QUANTISERS: dict[str, dict[str, Any]] = {
    "ternary": {"weights": "ternary"},
    "int4": {"weights": "int4"},
    "int8": {"weights": "int8"},
    "uniform of 1 bit": {"weights": "uniform", "bits": 1, "bucket": 48},
    "uniform of 4 bits": {"weights": "uniform", "bits": 4},
    "uniform of 8 bits, no buckets": {"weights": "uniform", "bits": 8, "bucket": None},
    "points": {"weights": "points", "bits": 3, "bucket": 100},
}
native = pytest.mark.skipif(not kernels(), reason="the native library was not built")


def student(model: PreTrainedModel, name: str = "uniform of 4 bits") -> tuple[PreTrainedModel, Record]:
    settings = quantization(**QUANTISERS[name])
    quantize_model(model, settings)
    freeze(model)
    return model, Record(task="tiny", quantization=settings)


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["kdqat"])
    return header


def write(path: Path, arrays: dict[str, Any], header: dict[str, Any]) -> None:
    """Writes a file with a correct digest and any content."""
    header = {key: value for key, value in header.items() if key != "sha256"}
    header["sha256"] = digest(arrays, header)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, {"kdqat": to_json(header)})


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    out: Tensor = model(**batch).logits
    return out


def same_bits(one: Codes, other: Codes) -> bool:
    parts = other.tensors()
    return one.grouping == other.grouping and all(torch.equal(values, parts[n]) for n, values in one.tensors().items())


@pytest.mark.parametrize("codec", [None, "auto", "fixed", "huffman"])
@pytest.mark.parametrize("name", QUANTISERS)
def test_every_student_is_read_back_bit_for_bit(
    name: str, codec: CodecName | None, model: PreTrainedModel, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    packed, record = student(model, name)
    save_packed(packed, tmp_path, record, codec=codec)
    assert header_of(tmp_path / FILE_NAME)["version"] == (1 if name == "ternary" and codec is None else 2)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for layer, mine in quantized_layers(packed).items():
        assert same_bits(quantized_layers(loaded)[layer].codes(), mine.codes())
    assert torch.equal(logits(loaded, batch), logits(packed, batch))
    state = packed.state_dict()
    checkpoint = PackedCheckpoint(tmp_path / FILE_NAME)
    assert all(torch.equal(values, state[name]) for name, values in checkpoint.state_dict().items())
    again = tmp_path / "again"
    again.mkdir()
    save_packed(loaded, again, record, codec=codec)
    assert (again / FILE_NAME).read_bytes() == (tmp_path / FILE_NAME).read_bytes()


def test_files_with_only_trits_are_version_1(model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model, "ternary")
    contents = {}
    codecs: tuple[CodecName | None, ...] = (None, "trits")
    for codec in codecs:
        save_packed(packed, tmp_path, record, codec=codec)
        contents[codec] = (tmp_path / FILE_NAME).read_bytes()
        assert header_of(tmp_path / FILE_NAME)["version"] == 1
    assert contents[None] == contents["trits"]


def test_auto_takes_the_smallest_codec_for_each_weight(model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model, "uniform of 4 bits")
    sizes = {}
    codecs: tuple[CodecName, ...] = ("fixed", "huffman", "auto")
    for codec in codecs:
        save_packed(packed, tmp_path, record, codec=codec)
        sizes[codec] = (tmp_path / FILE_NAME).stat().st_size
        codes = header_of(tmp_path / FILE_NAME)["codes"]
        assert codec == "auto" or {entry["codec"] for entry in codes.values()} == {codec}
    arrays = load_file(tmp_path / FILE_NAME)
    for name, entry in codes.items():
        fixed = 1 + (int(np.prod(entry["shape"])) * 4 + 7) // 8
        assert arrays[name].size <= fixed
        assert entry["unit"], entry["size"] == ("bucket", 256)
    assert sizes["auto"] <= min(sizes.values()) + 64, "its header may be longer"


def test_a_codec_that_cannot_store_the_levels_is_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model, "int4")
    with pytest.raises(ConfigError, match=r"codec trits .* a trit is at most 2") as caught:
        save_packed(packed, tmp_path, record, codec="trits")
    assert caught.value.fix == "--codec auto"
    assert not (tmp_path / FILE_NAME).exists()


@native
@pytest.mark.parametrize("codec", ["fixed", "huffman"])
def test_the_engine_serves_ternary_weights_of_any_codec(
    codec: CodecName, model: PreTrainedModel, tmp_path: Path
) -> None:
    packed, record = student(model, "ternary")
    rows: list[Any] = [([5, 6, 7], None), ([8] * 9, None)]
    save_packed(packed, tmp_path, record)
    expected = Engine.load(tmp_path, 1)
    values = expected.logits(rows)
    save_packed(packed, tmp_path, record, codec=codec)
    engine = Engine.load(tmp_path, 1)
    assert engine.remark is None
    assert engine.kernel == expected.kernel
    assert np.array_equal(engine.logits(rows), values)


@native
def test_torch_serves_other_weights_with_a_remark(model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model)
    save_packed(packed, tmp_path, record)
    engine = Engine.load(tmp_path, 1)
    assert engine.kernel == "torch"
    assert engine.remark is not None
    assert "word_embeddings.weight has other weights. Torch computes, more slowly." in engine.remark
    expected = logits(packed, {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)})
    torch.testing.assert_close(torch.tensor(engine.logits([([5, 6, 7], None)])), expected)
    with pytest.raises(ConfigError, match="supports ternary weights"):
        NativeModel(PackedFile(tmp_path / FILE_NAME), kernels()[0], 1)


def test_half_rounds_scales_offsets_and_points(model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model, "points")
    save_packed(packed, tmp_path, record, half=True)
    loaded = quantized_layers(AutoModelForSequenceClassification.from_pretrained(tmp_path))
    for name, layer in quantized_layers(packed).items():
        for part, values in layer.codes().tensors().items():
            wanted = values if part == "levels" else values.half().float()
            assert torch.equal(loaded[name].codes().tensors()[part], wanted)


WORDS = "bert.embeddings.word_embeddings.weight"


def changed(entry: dict[str, Any]) -> Any:
    def change(arrays: dict[str, Any], header: dict[str, Any]) -> None:
        header["codes"][WORDS] |= entry

    return change


def without_stream(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    del arrays[WORDS]


def fewer_scales(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    arrays["scales"] = arrays["scales"][:-1]


def points_of_none(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    arrays["points"] = np.ones(3, np.float32)


def bytes_of_none(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    arrays["classifier.weight"] = arrays["classifier.weight"].view(np.uint8)


def not_there(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["codes"]["more"] = header["codes"][WORDS]


def other_bits(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["about"]["quantization"]["bits"] = 2


def of_ternary(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    header["about"]["quantization"] = quantization().model_dump()


def a_bomb(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    """A stream without blocks and with a code of length 0."""
    arrays[WORDS] = np.zeros(2, np.uint8)
    header["codes"][WORDS] |= {"codec": "huffman", "shape": [2**30, 32], "unit": "matrix"}
    header["codes"][WORDS].pop("size")


DAMAGES = {
    "codec": (changed({"codec": "zip"}), "there is no codec 'zip'"),
    "another codec": (changed({"codec": "trits"}), "cannot hold exactly"),
    "shape": (changed({"shape": [3, 5]}), "cannot hold|the blocks have|do not end|after the last level|scales has"),
    "no shape": (changed({"shape": []}), "shape: list should have at least 1 item"),
    "negative": (changed({"shape": [-3, 32]}), "has the shape"),
    "zero": (changed({"shape": [0, 32]}), "has the shape"),
    "texts": (changed({"shape": ["3", 32]}), r"shape\.0: input should be a valid integer"),
    "unit": (changed({"unit": "column"}), "unit: input should be 'matrix', 'row' or 'bucket'"),
    "no size": (changed({"size": None}), "scale per bucket of None"),
    "size": (changed({"size": 100}), r"scales has the shape|offsets has the shape"),
    "lowest": (changed({"lowest": -200}), "lowest: input should be greater"),
    "lower": (changed({"lowest": -7}), "the record has uniform weights, but .* has levels from -7 to 8"),
    "points": (changed({"points": 4}), r"points has the shape \(0,\), not \(4,\)"),
    "no offsets": (changed({"offsets": False}), "offsets has the shape"),
    "unknown key": (changed({"colour": 1}), "colour"),
    "no stream": (without_stream, "word_embeddings.weight has no levels"),
    "fewer scales": (fewer_scales, "scales has the shape"),
    "points of none": (points_of_none, r"points has the shape \(3,\), not \(0,\)"),
    "bytes": (bytes_of_none, "classifier.weight has the type uint8"),
    "a weight that is not there": (not_there, "more has no levels"),
    "other bits": (other_bits, "the record has uniform weights, but .* has levels from 0 to 15"),
    "a record of ternary weights": (of_ternary, "the record has ternary weights, but"),
    "a bomb": (a_bomb, "bytes cannot hold 3"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_file_with_a_correct_digest_is_refused(damage: str, model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model)
    path = tmp_path / FILE_NAME
    save_packed(packed, tmp_path, record)
    arrays, header = load_file(path), header_of(path)
    change, sentence = DAMAGES[damage]
    change(arrays, header)
    write(path, arrays, header)
    tracemalloc.start()
    with pytest.raises(MissingInputError, match=sentence):
        PackedFile(path)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_a_weight_that_is_quantised_by_the_record_must_have_codes(model: PreTrainedModel, tmp_path: Path) -> None:
    packed, record = student(model)
    path = tmp_path / FILE_NAME
    save_packed(packed, tmp_path, record)
    exempt = copy.deepcopy(header_of(path))
    exempt["codes"].pop(WORDS)
    arrays = load_file(path)
    floats = quantized_layers(packed)[WORDS.removesuffix(".weight")].weight.numpy()
    groups = len(quantized_layers(packed)[WORDS.removesuffix(".weight")].codes().scales)
    arrays |= {WORDS: floats, "scales": arrays["scales"][groups:], "offsets": arrays["offsets"][groups:]}
    write(path, arrays, exempt)
    assert PackedFile(path).shape(WORDS) == floats.shape, "a file may have it in full precision"
    with pytest.raises(MissingInputError, match="word_embeddings is not quantised"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    exempt["about"]["quantization"]["exempt"] = ["first"]
    write(path, arrays, exempt)
    assert torch.equal(
        AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()[WORDS], packed.state_dict()[WORDS]
    )


SIZES: list[Any] = [0, 1, -1, 2, 7, 33, 256, 2**31, 2**63, 1e308, 0.5, None, "8", [], {}, True, "huffman", "row"]


@pytest.mark.parametrize("name", ["uniform of 4 bits", "points", "ternary"])
def test_mutated_files_are_refused_or_served(name: str, model: PreTrainedModel, tmp_path: Path) -> None:
    """The result of any file is a model or one of kdqat's errors."""
    packed, record = student(model, name)
    path, draw = tmp_path / FILE_NAME, random.Random(0)
    save_packed(packed, tmp_path, record, codec="huffman" if name == "ternary" else "auto")
    whole, header = load_file(path), header_of(path)
    read = 0
    for number in range(200):
        arrays, now = dict(whole), copy.deepcopy(header)
        for _ in range(draw.randint(1, 2)):
            chosen = draw.choice(sorted(now["codes"]))
            entry = now["codes"][chosen]
            if number % 3 == 0:
                entry[draw.choice(["shape", "codec", "unit", "size", "lowest", "offsets", "points"])] = draw.choice(
                    SIZES
                )
            elif number % 3 == 1 and isinstance(entry["shape"], list):
                entry["shape"][draw.randrange(2)] = draw.choice(SIZES)
            else:
                stream = arrays[chosen].copy()
                stream[draw.randrange(min(len(stream), 60))] ^= draw.randrange(1, 256)
                arrays[chosen] = stream if draw.random() < 0.7 else stream[: draw.randrange(len(stream))]
        write(path, arrays, now)
        try:
            PackedCheckpoint(path).state_dict()
            read += 1
        except KdqatError:
            continue
    assert read < 100


def test_codes_of_a_quantiser_with_a_scale_per_row(model: PreTrainedModel, tmp_path: Path) -> None:
    """The codes determine the engine, not the quantiser's name: here a linear layer with a scale per row."""
    packed, record = student(model, "int8")
    layer = quantized_layers(packed)["bert.pooler.dense"]
    codes = layer.codes()
    layer.freeze(Codes(codes.levels, torch.linspace(0.01, 0.02, len(codes.levels)), ROW))
    save_packed(packed, tmp_path, record)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same_bits(quantized_layers(loaded)["bert.pooler.dense"].codes(), layer.codes())
