"""The model card of an export: its header as the hub reads it, its numbers and programs, and equal bytes every time."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from kdqat_cli.cards.card import card as card_of
from kdqat_cli.cards.facts import Facts
from kdqat_cli.config import Params
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.params import resolve
from kdqat_cli.record import Record
from kdqat_cli.stages.card import card
from kdqat_cli.stages.distill import distill
from kdqat_cli.stages.evaluate import evaluate
from kdqat_cli.stages.export import export
from kdqat_cli.stages.finetune_teacher import finetune_teacher
from kdqat_cli.stages.quantize import quantize
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.figures import Size
from kdqat_cli.store.seal import is_sealed, sealed
from kdqat_cli.tasks.registry import load_task

pytestmark = pytest.mark.pipeline

PACKED = Path("runs/tiny/packed/map+output-1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the task `tiny`, a teacher, students of two seeds, packed, and their metrics."""
    folder = tmp_path_factory.mktemp("cards")
    shutil.copytree(tiny_task, folder / "tasks")
    shutil.copytree(tiny_encoder, folder / "encoder")
    text = (folder / "tasks/tiny.yaml").read_text(encoding="utf-8")
    (folder / "tasks/tiny.yaml").write_text(f"{text}language: en\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        task = load_task("tiny")
        short = {"batch_size": 8, "learning_rate": 4e-3}
        changes = {"teacher": {"epochs": 6.0, **short}, "student": {"max_steps": 12, **short}}
        settings = resolve("tiny", Params(), None, changes)
        finetune_teacher(task, "encoder", settings, 1, None, Path("runs/tiny/teacher"), lambda *_: None)
        for seed in (1, 2):
            name = f"map+output-{seed}"
            source = Path(f"runs/tiny/student/{name}")
            distill(task, "runs/tiny/teacher", settings, seed, None, source, lambda *_: None)
            export(str(source), Path(f"runs/tiny/packed/{name}"))
            evaluate(task, f"runs/tiny/packed/{name}", None, Path(f"metrics/tiny/packed/{name}.json"))
    return folder


def header(path: Path) -> Any:
    """The header as the library of the hub reads it; a damaged model-index is an error."""
    return ModelCard.load(path, ignore_metadata_errors=False).data


def programs(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_card_of_a_packed_model(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = PACKED / "model/README.md"
    data = header(path)
    assert data.library_name == "kdqat"
    assert data.pipeline_tag == "text-classification"
    assert data.language == ["en"]
    assert data.tags == ["kdqat", "quantization", "knowledge-distillation", "ternary", "packed"]
    assert data.base_model is None, "a local folder is not a model of the hub"
    (result,) = data.eval_results
    run = json.loads(Path("runs/tiny/student/map+output-1/run.json").read_text(encoding="utf-8"))
    assert (result.metric_type, result.metric_value) == ("accuracy", pytest.approx(run["score"], abs=1e-4))
    assert result.metric_args == {"seeds": [1]}
    text = path.read_text(encoding="utf-8")
    packed = PACKED / "model/kdqat.safetensors"
    assert file_digest(packed) in text
    assert f"{packed.stat().st_size:,}" in text
    assert "loss: map+output" in text
    assert str(inside) not in text
    for program in programs(path):
        exec(program.replace('"model"', repr(str(PACKED / "model"))), {})
    assert "'label'" in capsys.readouterr().out


def test_a_second_export_has_the_same_bytes(inside: Path) -> None:
    before = (PACKED / "model/README.md").read_bytes()
    shutil.rmtree("metrics")
    export("runs/tiny/student/map+output-1", PACKED)
    assert (PACKED / "model/README.md").read_bytes() == before


def test_the_card_with_all_seeds_and_times(inside: Path) -> None:
    bench = {
        "sha256": file_digest(PACKED / "model/kdqat.safetensors"),
        "machine": "a machine",
        "date": "2026-01-01",
        "threads": 1,
        "latency": [{"rows × tokens": "1 × 32", "engine": "kdqat", "ms": 0.5, "rows/s": 2000.0}],
    }
    Path("bench.json").write_text(json.dumps(bench), encoding="utf-8")
    told = card(str(PACKED), bench=Path("bench.json"))
    assert told["seeds"] == [1, 2]
    scores = [json.loads(Path(f"metrics/tiny/packed/map+output-{seed}.json").read_text())["score"] for seed in (1, 2)]
    assert told["score"] == pytest.approx(sum(scores) / 2)
    (result,) = header(PACKED / "README.md").eval_results
    assert result.metric_value == pytest.approx(sum(scores) / 2, abs=1e-4)
    assert result.metric_args["seeds"] == [1, 2]
    assert result.metric_args["std"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5, abs=1e-4)
    text = (PACKED / "README.md").read_text(encoding="utf-8")
    assert "over the seeds 1, 2" in text
    assert "| 1 × 32 | kdqat | 0.50 | 2000.00 |" in text

    bench["sha256"] = "0" * 64
    Path("bench.json").write_text(json.dumps(bench), encoding="utf-8")
    with pytest.raises(ConfigError, match="measured on a file other than"):
        card(str(PACKED), bench=Path("bench.json"))


def test_metrics_of_another_model_are_left_out_or_refused(inside: Path) -> None:
    other = Path("metrics/tiny/packed/map+output-2.json")
    value = json.loads(other.read_text(encoding="utf-8"))
    value["model"]["weights"] = "int8"
    other.write_text(json.dumps(value), encoding="utf-8")
    remarks: list[str] = []
    assert card(str(PACKED), remark=remarks.append)["seeds"] == [1]
    assert remarks == [f"{other} is left out: it has weights int8, but this model has ternary."]
    with pytest.raises(ConfigError, match="it has weights int8"):
        card(str(PACKED), metrics=[other])


def test_an_edited_card_is_not_replaced(inside: Path) -> None:
    card(str(PACKED))
    card(str(PACKED))
    beside = PACKED / "README.md"
    edited = beside.read_text(encoding="utf-8").replace("library_name", "license: mit\nlibrary_name", 1)
    beside.write_text(edited, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"README.md would be replaced, but kdqat did not write it"):
        card(str(PACKED))
    export("runs/tiny/student/map+output-1", PACKED)
    assert beside.read_text(encoding="utf-8") == edited
    inner = PACKED / "model/README.md"
    inner.write_text(inner.read_text(encoding="utf-8") + "One word more.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="did not write it, or it was edited"):
        export("runs/tiny/student/map+output-1", PACKED)


def test_a_new_export_removes_the_card_of_the_old_model(inside: Path) -> None:
    card(str(PACKED))
    export("runs/tiny/student/map+output-1", PACKED)
    assert not (PACKED / "README.md").exists()


def test_the_card_of_an_export_for_another_engine(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path("runs/tiny/dense/map+output-1")
    told = export("runs/tiny/student/map+output-1", out, format_name="dense", task=load_task("tiny"))
    data = header(out / "model/README.md")
    assert data.library_name == "transformers"
    assert data.eval_results[0].metric_value == pytest.approx(told["score"], abs=1e-4)
    (program,) = programs(out / "model/README.md")
    exec(program.replace('"model"', repr(str(out / "model"))), {})
    assert "tensor" in capsys.readouterr().out
    evaluate(load_task("tiny"), str(out), None, Path("metrics/tiny/dense/map+output-1.json"))
    assert card(str(out))["seeds"] == [1]


def test_a_score_of_the_student_is_not_used_for_another_model(inside: Path) -> None:
    export("runs/tiny/student/map+output-1", Path("half"), half=True)
    data = header(Path("half/model/README.md"))
    assert data.eval_results is None
    assert "not this file" in Path("half/model/README.md").read_text(encoding="utf-8")
    task = load_task("tiny")
    quantize(task, "runs/tiny/teacher", resolve("tiny", Params()), None, Path("ternary"))
    export("ternary", Path("packed"))
    text = Path("packed/model/README.md").read_text(encoding="utf-8")
    assert "quantised without any training" in text
    assert "knowledge-distillation" not in text


@pytest.mark.parametrize(
    ("encoder", "digest", "base"),
    [
        ("embedded", "a" * 64, "sentence-transformers/all-MiniLM-L6-v2"),
        ("google-bert/bert-base-uncased", None, "google-bert/bert-base-uncased"),
        ("models/bert", "a" * 64, None),
        (None, None, None),
    ],
)
def test_the_base_model_is_a_model_of_the_hub(
    encoder: str | None, digest: str | None, base: str | None, tmp_path: Path
) -> None:
    sources: dict[str, str | None] = {"teacher": "b" * 64}
    if digest:
        sources["encoder"] = digest
    quantization = resolve("rte", Params()).quantization
    record = Record(
        kind="student", task="rte", encoder=encoder, sources=sources, max_length=128, quantization=quantization
    )
    size: Size = {"parameters": 10, "bytes": 5, "bits_per_weight": 4.0, "ratio_to_fp32": 8.0}
    facts = Facts(record, load_task("rte"), "packed", "kdqat.safetensors", "c" * 64, size, library="kdqat")
    (tmp_path / "README.md").write_text(card_of(facts), encoding="utf-8")
    data = header(tmp_path / "README.md")
    assert data.base_model == base
    assert data.datasets == ["nyu-mll/glue"]
    assert data.language == ["en"]
    assert data.get("base_model_relation") == (None if base is None else "quantized")


def test_only_exports_have_cards(inside: Path) -> None:
    with pytest.raises(ConfigError, match="is not an export"):
        card("runs/tiny/teacher")
    with pytest.raises(MissingInputError, match=r"There is no run.json"):
        card(str(shutil.copytree(PACKED / "model", "alone")))


def test_the_seal_covers_only_the_text() -> None:
    text = sealed("---\na: b\n---\n", "\nWords.\n")
    assert is_sealed(text)
    assert not is_sealed(text.replace("Words", "Other words"))
    assert not is_sealed("Words.\n")
