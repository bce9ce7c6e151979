"""Damaged packed files: each is refused with an error or served, and none crashes the process."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdqat_cli.engine.native_model import NativeModel
from kdqat_cli.errors import KdqatError, MissingInputError
from kdqat_cli.native.library import kernels
from kdqat_cli.packing.packed_file import FILE_NAME, PackedFile, digest, to_json
from tests.architectures import tiny
from tests.engine.test_engine import pack

native = pytest.mark.skipif(not kernels(), reason="the native library was not built")
BYTES, PARTS = 2000, 1000  # mutations


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("fuzz"), tiny("bert")) / FILE_NAME


def serve(path: Path) -> None:
    """Loads a file and runs it; a fault must raise one of kdqat's errors, or the refusal of a row."""
    try:
        model = NativeModel(PackedFile(path), kernels()[0], 1)
    except KdqatError:
        return
    try:
        model.logits([([5, 6, 7], None), ([8], None)])
    except ValueError:
        return


def test_mutated_bytes_are_refused(packed: Path, tmp_path: Path) -> None:
    """The digest is checked first, so that no part of a damaged file is used."""
    content, draw, path = packed.read_bytes(), random.Random(0), tmp_path / FILE_NAME
    header, whole, unchanged = 8 + int.from_bytes(content[:8], "little"), PackedFile(packed), 0
    for number in range(BYTES):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(header if number % 2 else len(content))
            damaged[place] = damaged[place] ^ draw.randrange(1, 256)
        if number % 10 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            read = PackedFile(path)
        except MissingInputError:
            continue
        # A blank in the header may become another blank, which does not change the content of the file.
        assert (read.config, read.record, read.shapes) == (whole.config, whole.record, whole.shapes)
        assert all(np.array_equal(read.arrays[name], array) for name, array in whole.arrays.items())
        unchanged += 1
    assert unchanged < BYTES / 100


SIZES: list[Any] = [0, 1, -1, 2, 7, 33, 64, 2**15, 2**31, 2**31 - 1, 2**33, 2**63, 1e308, 0.5, None, "8", [], {}, True]


def mutate(draw: random.Random, arrays: dict[str, Any], header: dict[str, Any]) -> None:
    """Makes one change; the digest is computed again afterwards, so it cannot show the change."""
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    kind = draw.randrange(9)
    if kind == 0:
        header["config"][draw.choice(sorted(header["config"]))] = draw.choice(SIZES)
    elif kind == 1:
        header["ternary"][draw.choice(sorted(header["ternary"]))] = draw.choice(
            [*SIZES, [1, 2], [8, 8, 1], [-1, -1, 1]]
        )
    elif kind == 2:
        shape = header["ternary"][draw.choice(sorted(header["ternary"]))]
        shape[draw.randrange(3)] = draw.choice(SIZES)
    elif kind == 3:
        del arrays[name]
    elif kind == 4:
        arrays[name] = array.reshape(-1)[: draw.randrange(array.size)]
    elif kind == 5:
        arrays[name] = array.astype(draw.choice([np.float16, np.float32, np.uint8, np.int64]))
    elif kind == 6:
        flat = array.reshape(-1).copy()
        flat[draw.randrange(flat.size)] = draw.choice([255, 243]) if array.dtype == np.uint8 else np.nan
        arrays[name] = flat.reshape(array.shape)
    elif kind == 7:
        arrays[name + draw.choice(["", ".more"])] = np.resize(array, draw.choice([(1,), (3, 5), (0,), (64, 64)]))
    else:
        header["about"] = draw.choice([{}, None, [], {"quantization": {}}, {"quantization": {"activations": "int8"}}])
        if draw.random() < 0.5:
            clip = draw.choice([-1, 0, 1e-30, "x", 1e300])
            header["about"] = {"quantization": {"activations": "int8", "activation_clip": clip}}


@native
def test_a_wrong_file_with_a_correct_digest_does_not_crash_the_process(packed: Path, tmp_path: Path) -> None:
    whole, draw, path = PackedFile(packed), random.Random(1), tmp_path / FILE_NAME
    parts = {"version": 1, "config": whole.config, "ternary": whole.shapes, "about": whole.record.to_json()}
    for _ in range(PARTS):
        arrays, header = dict(whole.arrays), json.loads(json.dumps(parts))
        for _ in range(draw.randint(1, 2)):
            try:
                with np.errstate(all="ignore"):
                    mutate(draw, arrays, header)
            except (KeyError, TypeError, IndexError, AttributeError, OverflowError, ValueError):
                continue  # the second change may need a key that the first one removed
        header["sha256"] = digest(arrays, header)
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, {"kdqat": to_json(header)}
        )
        serve(path)


@native
def test_every_kernel_passes_nan_and_infinity_on(packed: Path, tmp_path: Path) -> None:
    """Infinite and NaN weights give NaN logits, and nothing worse."""
    for kernel in kernels():
        for value in (np.nan, np.inf, -np.inf, 3e38):
            file = PackedFile(packed)
            for name, array in file.arrays.items():
                if array.dtype == np.float32:
                    array.reshape(-1)[:: 3 if "LayerNorm" in name else 50] = value
            model = NativeModel(file, kernel, 2)
            assert model.logits([([5, 6, 7], None), ([8] * 20, None)]).shape == (2, 3)


@native
def test_a_file_that_does_not_fit_its_configuration_is_reported(packed: Path) -> None:
    for change in ({"hidden_size": 64}, {"num_hidden_layers": 3}, {"intermediate_size": 41}, {"num_hidden_layers": 1}):
        file = PackedFile(packed)
        file.config = {**file.config, **change}
        with pytest.raises(MissingInputError, match="does not fit its own configuration"):
            NativeModel(file, kernels()[0], 1)
