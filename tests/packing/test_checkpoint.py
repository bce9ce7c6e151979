"""The packed file: a written file reads back exactly, and any other file is refused with one class of error."""

import hashlib
import json
import math
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.packing import checkpoint as module
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint, packed_parts, write_packed
from kdqat_cli.quantizers.codes import MATRIX, ROW, Codes, Grouping
from kdqat_cli.record import Record
from tests.recipes import quantization

CONFIG = {
    **{"model_type": "distilbert", "dim": 7, "n_layers": 1, "n_heads": 1, "hidden_dim": 13, "activation": "gelu"},
    **{"vocab_size": 9, "max_position_embeddings": 3, "pad_token_id": 0, "id2label": {"0": "schön", "1": "bad"}},
}
LAYER = "distilbert.transformer.layer.0"
WORDS = "distilbert.embeddings.word_embeddings.weight"
POSITIONS = "distilbert.embeddings.position_embeddings.weight"
QUERY, KEY = (f"{LAYER}.attention.{name}_lin" for name in "qk")
SHAPES = {f"{LAYER}.attention.{name}_lin.weight": (7, 7) for name in ("q", "k", "v", "out")}
SHAPES |= {f"{LAYER}.ffn.lin1.weight": (13, 7), f"{LAYER}.ffn.lin2.weight": (7, 13), WORDS: (9, 7)}
NORMS = [f"{LAYER}.sa_layer_norm", f"{LAYER}.output_layer_norm", "distilbert.embeddings.LayerNorm"]
VERSION_1 = [
    (False, "307d51f95503a7315f754cdc9eca74be2c55575293fd2f78a416bbd2a8a551ee"),
    (True, "ea7f383da209d8a629f0b9b57cabe5176666dce54e4995dfb610a6d2c7b9612a"),
]
RECORD = Record(task="tiny", labels=["schön", "bad"], quantization=quantization())


def parts(seed: int = 0) -> tuple[dict[str, Codes], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)

    def codes(shape: tuple[int, int], grouping: Grouping) -> Codes:
        levels = torch.randint(-1, 2, shape, generator=draw).to(torch.int8)
        return Codes(levels, torch.rand(grouping.count(levels.shape), generator=draw), grouping)

    ternary = {name: codes(shape, ROW if name == WORDS else MATRIX) for name, shape in SHAPES.items()}
    sizes: dict[str, tuple[int, ...]] = {f"{norm}.{part}": (7,) for norm in NORMS for part in ("weight", "bias")}
    sizes |= {name.replace("weight", "bias"): shape[:1] for name, shape in SHAPES.items() if name != WORDS}
    sizes |= {POSITIONS: (3, 7), "pre_classifier.weight": (7, 7), "pre_classifier.bias": (7,)}
    sizes |= {"classifier.weight": (2, 7), "classifier.bias": (2,)}
    dense = {name: torch.randn(size, generator=draw) for name, size in sizes.items()}
    return ternary, dense


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    write_packed(path, packed_parts(*parts(), CONFIG, RECORD))
    return path


def test_round_trip(packed: Path) -> None:
    ternary, dense = parts()
    read = PackedCheckpoint(packed)
    assert read.config == CONFIG
    assert read.record == RECORD
    back = read.codes()
    assert list(back) == list(ternary), "the order of the scales"
    for name, codes in ternary.items():
        assert torch.equal(back[name].levels, codes.levels)
        assert back[name].levels.dtype == torch.int8
        assert torch.equal(back[name].scales, codes.scales)
        assert back[name].grouping == codes.grouping
    state = read.state_dict()
    assert state.keys() == {*ternary, *dense}
    for name, values in dense.items():
        assert torch.equal(state[name], values)
    for name, codes in ternary.items():
        assert torch.equal(state[name], codes.levels * codes.scales[:, None])


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (float("-inf"), False), (7e4, True)])
def test_nan_and_infinity_are_neither_written_nor_read(
    value: float, half: bool, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scaled in (False, True):
        ternary, dense = parts()
        values = ternary[WORDS].scales if scaled else next(iter(dense.values()))
        values.view(-1)[3] = value
        with pytest.raises(ConfigError, match=f"is NaN or infinite in FP{16 if half else 32}"):
            packed_parts(ternary, dense, CONFIG, RECORD, half)
        with monkeypatch.context() as patch:
            patch.setattr(module, "not_finite", lambda _: None)
            write_packed(packed, packed_parts(ternary, dense, CONFIG, RECORD, half))
        with pytest.raises(MissingInputError, match="is NaN or infinite"):
            PackedCheckpoint(packed)


def test_half_stores_unquantised_tensors_in_fp16(tmp_path: Path, packed: Path) -> None:
    ternary, dense = parts()
    path = tmp_path / "half.safetensors"
    write_packed(path, packed_parts(ternary, dense, CONFIG, RECORD, half=True))
    read = PackedCheckpoint(path)
    for name, codes in ternary.items():
        assert torch.equal(read.codes()[name].levels, codes.levels)
        assert torch.equal(read.codes()[name].scales, codes.scales.half().float())
    state = read.state_dict()
    assert all(values.dtype == torch.float32 for values in state.values())
    assert all(torch.equal(state[name], values.half().float()) for name, values in dense.items())
    values = sum(value.numel() for value in parts()[1].values()) + 6 + 9
    stored = sum(tensor.nbytes for tensor in PackedCheckpoint(packed).tensors.values())
    assert stored - sum(tensor.nbytes for tensor in read.tensors.values()) == 2 * values


def test_the_layout_agrees_with_the_documentation(packed: Path) -> None:
    """Read with only json and struct, like a runtime in another language."""
    content = packed.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert list(metadata) == ["kdqat"]
    about = json.loads(metadata["kdqat"])
    assert about["version"] == 1
    assert about["ternary"] == {name: [*shape, 9 if name == WORDS else 1] for name, shape in SHAPES.items()}
    assert about["config"] == CONFIG
    assert about["about"] == RECORD.to_json()
    bytes_of = {49: 10, 63: 13, 91: 19}  # five codes per byte
    expected = {name: ("U8", [bytes_of[rows * columns]]) for name, (rows, columns) in SHAPES.items()}
    expected |= {name: ("F32", list(values.shape)) for name, values in parts()[1].items()}
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()} == {
        **expected,
        "scales": ("F32", [6 + 9]),
    }
    start, end = header[f"{LAYER}.ffn.lin1.weight"]["data_offsets"]
    codes = [byte // 3**place % 3 - 1 for byte in content[8 + length :][start:end] for place in range(5)]
    assert codes[:91] == parts()[0][f"{LAYER}.ffn.lin1.weight"].levels.flatten().tolist()


def counted(*shape: int) -> Tensor:
    """Multiples of 1/8, which FP16 represents exactly."""
    return (torch.arange(math.prod(shape)) % 64 / 8 - 3).view(shape)


@pytest.mark.parametrize(("half", "sha256"), VERSION_1)
def test_version_1_is_written_with_the_same_bytes(half: bool, sha256: str, tmp_path: Path) -> None:
    """The digests are those of the files that kdqat 0.1.0 wrote from the same numbers."""
    weights = {}
    for name, (rows, columns) in SHAPES.items():
        levels = (torch.arange(rows * columns) * 7 % 11 % 3 - 1).to(torch.int8).view(rows, columns)
        grouping = ROW if name == WORDS else MATRIX
        weights[name] = Codes(levels, counted(grouping.count(levels.shape)).abs(), grouping)
    dense = {name: counted(*values.shape) for name, values in parts()[1].items()}
    write_packed(tmp_path / FILE_NAME, packed_parts(weights, dense, CONFIG, RECORD, half))
    assert hashlib.sha256((tmp_path / FILE_NAME).read_bytes()).hexdigest() == sha256


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    """DVC compares bytes: a repeated export must not cause later stages to run again."""
    contents = set()
    for number in range(5):
        write_packed(tmp_path / f"{number}", packed_parts(*parts(), CONFIG, RECORD))
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1


def test_a_truncated_file_is_refused(packed: Path) -> None:
    content = packed.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(content) - 1, *range(0, len(content), 13)}
    for length in sorted(lengths):
        packed.write_bytes(content[:length])
        with pytest.raises(MissingInputError, match=r"truncated|altered"):
            PackedCheckpoint(packed)
    packed.write_bytes(content + b"\0")
    with pytest.raises(MissingInputError, match=r"truncated|altered"):
        PackedCheckpoint(packed)


def test_a_flipped_bit_is_refused_at_every_place(packed: Path) -> None:
    content = packed.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    places = [
        *range(8 * 8),
        *draw.sample(range(64, 8 * header), 120),
        *draw.sample(range(8 * header, 8 * len(content)), 80),
    ]
    for bit in places:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        packed.write_bytes(damaged)
        with pytest.raises(MissingInputError):
            PackedCheckpoint(packed)
    packed.write_bytes(content)
    PackedCheckpoint(packed)


@pytest.mark.parametrize("field", ["version", "config", "ternary", "about", "sha256"])
def test_metadata_that_was_changed_is_refused(packed: Path, field: str) -> None:
    """Also if the file is still valid safetensors."""
    tensors = PackedCheckpoint(packed).tensors
    content = packed.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["kdqat"])
    others = {key: value for key, value in header.items() if key != field}
    for changed in ({field: [header[field]]}, {}):
        save_file(tensors, packed, metadata={"kdqat": json.dumps(others | changed)})
        with pytest.raises(MissingInputError):
            PackedCheckpoint(packed)


def test_the_error_about_a_later_version_names_the_known_versions(packed: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, packed, metadata={"kdqat": json.dumps({"version": 3})})
    with pytest.raises(MissingInputError, match=r"version 3, but this kdqat reads versions 1 and 2") as caught:
        PackedCheckpoint(packed)
    assert caught.value.fix == "kdqat export"


def test_swapped_tensors_are_refused(packed: Path) -> None:
    """If two tensors of the same shape are exchanged, all bytes of data stay the same."""
    content = packed.read_bytes()
    first, other = (f"{module}.bias".encode() for module in (QUERY, KEY))
    swapped = content.replace(first, b"TMP").replace(other, first).replace(b"TMP", other)
    assert len(swapped) == len(content)
    packed.write_bytes(swapped)
    with pytest.raises(MissingInputError, match="altered"):
        PackedCheckpoint(packed)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / FILE_NAME
    save_file({"weight": torch.ones(2, 2)}, path, metadata=metadata)
    with pytest.raises(MissingInputError, match="not a packed checkpoint of kdqat") as caught:
        PackedCheckpoint(path)
    assert caught.value.fix == "kdqat export"


@pytest.mark.parametrize("content", [b"", b"kdqat\n", b"\xff" * 100, b"\x80\x02}q\x00.", b"{}" * 40], ids=repr)
def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(MissingInputError, match="not a safetensors file"):
        PackedCheckpoint(path)


def test_the_error_about_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    for path in (tmp_path / FILE_NAME, tmp_path):  # a folder is not a file either
        with pytest.raises(MissingInputError, match="no packed checkpoint") as caught:
            PackedCheckpoint(path)
        assert caught.value.fix == "kdqat export"
