"""benchmarks/on_gpu.sh on a CPU, with a tiny encoder: every part runs, and only a failing part is reported."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from kdqat_cli.errors import ConfigError, MissingInputError
from tests.commands import REPOSITORY, run

SCRIPT = str(REPOSITORY / "benchmarks/on_gpu.sh")
# Random weights learn nothing with the usual learning rate of BERT.
PARAMS = "settings: {movie: {teacher: {learning_rate: 4e-3, epochs: 5, batch_size: 8}, student: {epochs: 1}}}\n"
OURS = ["machine", "tests", "packed", "training tiny", "teacher"]
LATER = ["student, processor", "export", "packed student, processor"]


@pytest.fixture
def bundle(benchmarks: Any, tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> Path:
    """The same files as from gpu_bundle.py, for the tiny encoder and task, without wheels."""
    folder = tmp_path / "bundle"
    (folder / "data/movie").mkdir(parents=True)
    benchmarks("gpu_bundle").halve(tiny_encoder, folder / "encoder")
    for split in ("train", "dev"):
        table = (tiny_task / f"{split}.tsv").read_text(encoding="utf-8")
        table = table.replace("sentence\tmood", "sentence\tlabel").replace("\tsad\n", "\tnegative\n")
        (folder / f"data/movie/{split}.tsv").write_text(table.replace("\tglad\n", "\tpositive\n"), encoding="utf-8")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return folder


def measure(bundle: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """Runs the script; returns the parts by name, and the Markdown."""
    out = bundle.parent / "out"
    command = ["bash", SCRIPT, "--device", "cpu", "--bundle", str(bundle), "--out", str(out), *options]
    command += ["--minutes", "60"]  # also on a busy machine
    run(bundle.parent, *command, code=code, PYTHON=sys.executable)
    report = json.loads((out / "on_gpu.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in out.iterdir()) == ["on_gpu.json", "on_gpu.log", "on_gpu.md"]
    return {part["name"]: part for part in report["parts"]}, (out / "on_gpu.md").read_text(encoding="utf-8")


@pytest.mark.pipeline
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the script itself")
def test_every_part_runs_on_a_processor(bundle: Path) -> None:
    parts, text = measure(bundle)
    assert list(parts) == ["packages", "native library", *OURS, *LATER]
    assert parts["packages"]["note"] == "no wheels in the bundle"
    assert all(parts[name]["state"] == "ok" for name in (*OURS, *LATER)), text
    steps = parts["training tiny"]["result"]["steps"]
    labels = [f"clean map+output {precision}" for precision in ("fp32", "tf32", "bf16")]
    assert [step["label"] for step in steps] == ["straightforward", *labels]
    assert [row["rows"] for row in parts["packed"]["result"]["linear"]["rows"]] == [1, 8]
    assert {row["engine"] for row in parts["packed"]["result"]["model"]} == {"kdqat", "int8", "FP16", "TF32", "FP32"}
    assert parts["student, processor"]["result"]["score"] > 60  # 50 is the score of a constant answer
    assert parts["packed student, processor"]["result"]["score"] == parts["student, processor"]["result"]["score"]
    for heading in ("A training step", "A linear 128 → 128", "A packed model", "Task movie"):
        assert f"## {heading}" in text


def test_a_part_that_fails_is_reported_and_the_others_run(bundle: Path) -> None:
    (bundle / "data/movie/dev.tsv").unlink()
    parts, text = measure(bundle, "--only", "teacher", "student, processor", "machine", code=5)
    assert parts["machine"]["state"] == "ok"
    assert parts["machine"]["result"]["cores"] == os.cpu_count()
    assert parts["teacher"]["state"] == "failed"
    assert parts["teacher"]["note"] == "exit code 3"
    assert "dev.tsv" in " ".join(parts["teacher"]["last_lines"])
    assert parts["student, processor"] | {"result": None} == parts["student, processor"]
    assert (parts["student, processor"]["state"], parts["student, processor"]["note"]) == ("left out", "needs teacher")
    assert "## teacher: failed, exit code 3" in text
    assert "dev.tsv" in (bundle.parent / "out/on_gpu.log").read_text(encoding="utf-8")


def test_an_unknown_part_is_refused(bundle: Path) -> None:
    done = run(bundle.parent, "bash", SCRIPT, "--only", "machines", "--out", "out", code=2, PYTHON=sys.executable)
    assert "there is no part 'machines', but: packages, " in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_no_gpu_test_passes(bundle: Path) -> None:
    out = bundle.parent / "out"
    options = ["--bundle", str(bundle), "--out", str(out), "--only", "machine", "tests", "--minutes", "60"]
    run(bundle.parent, "bash", SCRIPT, *options, code=5, PYTHON=sys.executable)
    machine, tests = json.loads((out / "on_gpu.json").read_text(encoding="utf-8"))["parts"]
    assert machine["last_lines"] == ["torch finds no GPU here."]
    assert tests["note"] == "needs machine"


def test_a_part_that_takes_too_long_is_killed_with_its_child_processes(benchmarks: Any, tmp_path: Path) -> None:
    module = benchmarks("on_gpu_parts")
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; print('begins', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    slow = module.Part("slow", [sys.executable, "-c", parent], tmp_path)
    quick = module.Part("quick", [sys.executable, "-c", "print('done')"], tmp_path)
    start = time.monotonic()
    records = {record.name: record for record in module.run_group([slow, quick], {}, start + 5, tmp_path / "log")}
    assert time.monotonic() - start < 60
    assert (records["slow"].state, records["quick"].state) == ("out of time", "ok")
    assert records["slow"].last_lines == ["begins"]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "pid").read_text(encoding="utf-8"))).wait(timeout=60)


def test_a_part_without_its_result_has_failed(benchmarks: Any, tmp_path: Path) -> None:
    module = benchmarks("on_gpu_parts")
    parts = [
        module.Part("silent", [sys.executable, "-c", ""], tmp_path, tmp_path / "none.json"),
        module.Part("absent", [str(tmp_path / "program")], tmp_path),
    ]
    records = {record.name: record for record in module.run_group(parts, {}, time.monotonic() + 60, tmp_path / "log")}
    assert (records["silent"].state, records["silent"].note) == ("failed", "wrote no none.json")
    assert records["absent"].state == "failed"
    assert "No such file" in records["absent"].note


def test_a_run_on_a_gpu_has_every_part_within_eight_minutes(benchmarks: Any, tmp_path: Path) -> None:
    plan = benchmarks("on_gpu").Plan("cuda", tmp_path, tmp_path)
    assert sum(share for share, _ in plan.groups) == 470
    names = [part.name for _, parts in plan.groups for part in parts]
    assert {need for _, parts in plan.groups for part in parts for need in part.needs} <= set(names)
    assert {"training base", "training large", "student, GPU", "student, processor"} <= set(names)


@pytest.mark.parametrize(("kdqat", "fp16", "found"), [([1, 1, 3], [2, 2, 2], 4), ([3, 1, 1], [2, 2, 2], None)])
def test_the_crossover_by_hand(benchmarks: Any, kdqat: list[int], fp16: list[int], found: int | None) -> None:
    rows = [
        {"rows": 2**power, "kdqat": ours, "FP16": theirs}
        for power, (ours, theirs) in enumerate(zip(kdqat, fp16, strict=True))
    ]
    assert benchmarks("gpu").crossover(rows, "FP16") == found


def test_an_encoder_in_half_precision_loads_in_half_precision(
    benchmarks: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    benchmarks("gpu_bundle").halve(tiny_encoder, tmp_path / "half")
    whole, half = (load_file(folder / "model.safetensors") for folder in (tiny_encoder, tmp_path / "half"))
    assert all(torch.equal(half[name], whole[name].half()) for name in whole)
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == torch.float16


def test_the_bundle_has_only_missing_packages(benchmarks: Any) -> None:
    names = {line.partition("==")[0] for line in benchmarks("gpu_bundle").missing()}
    assert {"datasets", "dill", "multiprocess", "pydantic", "pydantic-core", "pytest", "wrapt", "xxhash"} <= names
    assert not names & {"torch", "numpy", "transformers", "tokenizers", "pandas", "dvc", "celery", "triton", "kdqat"}


def test_the_bundle_reports_obstacles(benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = benchmarks("gpu_bundle")
    with pytest.raises(ConfigError, match="exists already"):
        module.gather(tmp_path, tmp_path / "assets")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(MissingInputError, match="datasets"):
        module.download(["datasets==5"], tmp_path / "wheels")
