"""`kdqat bench` on a tiny model: the peers compute the right model, and the table has the requested rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedModel

from kdqat_cli.bench.engines import ENGINES, OWN, EngineSpec, packed_itself
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.packing.packed_file import FILE_NAME
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record
from kdqat_cli.stages.bench import bench
from tests.commands import run
from tests.recipes import quantization

pytest.importorskip("onnxruntime")
FIGURES = {"rows × tokens", "engine", "ms", "middle half", "rows/s", "times kdqat's"}


@pytest.fixture
def packed(model: PreTrainedModel, tiny_encoder: Path, tmp_path: Path) -> Path:
    quantize_model(model, quantization())
    freeze(model)
    folder = tmp_path / "packed"
    folder.mkdir()
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    save_packed(model, folder, Record(quantization=quantization()))
    return folder


def test_every_engine_computes_the_same_model(packed: Path, tmp_path: Path) -> None:
    """FP32 engines agree closely; kdqat's rounds activations to 8 bits like the student, ORT int8 in its own way."""
    ids = np.random.default_rng(0).integers(5, 60, (3, 11))
    logits = {}
    for name, engine in ENGINES["cpu"].items():
        engine.prepare(packed / FILE_NAME, tmp_path)
        logits[name] = np.asarray(engine.load(packed / FILE_NAME, tmp_path, 1)(ids)).reshape(3, 3)
    np.testing.assert_allclose(logits["ORT FP32"], logits["torch FP32"], atol=1e-4)
    spread = float(np.ptp(logits["torch FP32"]))
    np.testing.assert_allclose(logits["kdqat"], logits["torch FP32"], atol=0.1 * spread)
    np.testing.assert_allclose(logits["ORT int8"], logits["torch FP32"], atol=0.2 * spread)


def test_the_table_has_every_engine_and_shape(packed: Path, tmp_path: Path) -> None:
    command = ["kdqat", "bench", str(packed), "--shape", "1x8", "--shape", "3x5", "--rounds", "2", "--threads", "1"]
    result = json.loads(run(tmp_path, *command, "--json").stdout)
    assert [(row["rows × tokens"], row["engine"]) for row in result["latency"]] == [
        (shape, name) for shape in ("1 × 8", "3 × 5") for name in ENGINES["cpu"]
    ]
    assert all(set(row) == FIGURES and row["ms"] > 0 for row in result["latency"])
    assert result["latency"][0]["times kdqat's"] == "1.00 (1.00 to 1.00)"
    assert (result["threads"], result["rounds"]) == (1, 2)
    sizes = {row["engine"]: row["MB on disk"] for row in result["footprint"]}
    assert sizes["kdqat"] == (packed / FILE_NAME).stat().st_size / 1e6
    assert sizes["kdqat"] < sizes["torch FP32"]
    shown = run(tmp_path, "kdqat", "bench", str(packed), "--only", "--shape", "1x8", "--rounds", "1").stdout
    assert "VNNI" in shown
    assert "ORT" not in shown


def test_a_missing_peer_and_a_peer_with_another_model_are_left_out(packed: Path) -> None:
    own = ENGINES["cpu"][OWN]
    missing = EngineSpec(_not_installed, own.load, (), packed_itself)
    other = EngineSpec(own.prepare, _negated, (), packed_itself)
    told: list[str] = []
    result = bench(str(packed), [(1, 8)], 1, 1, {OWN: own, "missing": missing, "other": other}, told.append)
    assert [row["engine"] for row in result["latency"]] == [OWN]
    assert [(row["engine"], row["off"]) for row in result["footprint"]] == [(OWN, 0)]
    assert "missing is left out: It is not installed. (pip install it)" in told
    assert any("other is left out" in line and "computes another model" in line for line in told)


def _not_installed(packed: Path, scratch: Path) -> None:
    raise ConfigError("It is not installed.", "pip install it")


def _negated(packed: Path, scratch: Path, threads: int) -> Any:
    run = ENGINES["cpu"][OWN].load(packed, scratch, threads)
    return lambda ids: -run(ids)


def test_each_mistake_is_reported_in_one_sentence(packed: Path, tmp_path: Path) -> None:
    assert "no model folder nowhere" in run(tmp_path, "kdqat", "bench", "nowhere", code=3).stderr
    assert f"{tmp_path} is not a packed model." in run(tmp_path, "kdqat", "bench", str(tmp_path), code=3).stderr
    done = run(tmp_path, "kdqat", "bench", str(packed), "--shape", "1x8", "--shape", "2x65", code=2)
    assert "A row of 65 tokens is too long: the model has positions for 64 tokens." in done.stderr
    assert "--shape 2x64" in done.stderr
    assert "preparing" not in done.stderr
    assert "ROWSxTOKENS" in run(tmp_path, "kdqat", "bench", str(packed), "--shape", "8", code=2).stderr
