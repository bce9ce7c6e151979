"""Plugins: a file outside the package adds a loss, a quantiser and an export format; the command line runs them."""

import csv
import json
import random
import shutil
from pathlib import Path

import pytest

from tests.commands import REPOSITORY, run

pytestmark = pytest.mark.pipeline

BUCKETS = (REPOSITORY / "tests/buckets.py").read_text(encoding="utf-8")
PLUGIN = """\
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from kdqat_cli.distillation import losses
from kdqat_cli.exporters import catalogue, dense, stock
from kdqat_cli.quantizers import weights


def cosine(student: list[Tensor], teacher: list[Tensor], mask: Tensor) -> Tensor:
    return sum((1 - F.cosine_similarity(s, t, dim=-1))[mask.bool()].mean() for s, t in zip(student, teacher))


def write(model, tokenizer, folder: Path) -> None:
    dense.write(model, tokenizer, folder)
    (folder / "weights.txt").write_text(str(sum(p.numel() for p in model.parameters())))


weights.register(Buckets())
losses.register("cosine", losses.Term("outputs", cosine, Tensor.sum), "angles of attention outputs", "mine")
catalogue.register("counted", catalogue.Format(write, stock.logits, "weights.txt", engine="eyes", loses="everything"))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the plugin, the task `tiny` and a teacher of it."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(tiny_task, folder / "tasks")
    (folder / "mine.py").write_text(f"{BUCKETS}\n{PLUGIN}", encoding="utf-8")
    (folder / "params.yaml").write_text("plugins: [mine.py]\nlosses: [cosine, map]\n", encoding="utf-8")
    teach = ("finetune-teacher", "--task", "tiny", "--epochs", "4", "--batch-size", "8", "--learning-rate", "4e-3")
    run(folder, "kdqat", *teach, "--encoder", str(tiny_encoder))
    return folder


def test_a_loss_and_a_format_from_one_file(project: Path) -> None:
    student = ("distill", "--task", "tiny", "--loss", "cosine", "--epochs", "2", "--learning-rate", "2e-3")
    told = json.loads(run(project, "kdqat", *student, "--json").stdout)
    with (project / told["folder"] / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(row["loss_cosine"]) < 2 * 3 for row in rows), "three layers"
    assert float(rows[-1]["loss_cosine"]) < float(rows[0]["loss_cosine"])
    assert "angles of attention outputs" in run(project, "kdqat", "ls", "losses").stdout
    export = ("export", "--student", told["folder"], "--format", "counted", "--json")
    told = json.loads(run(project, "kdqat", *export).stdout)
    assert told["rows"] == 60
    counted = (project / told["folder"] / "model/weights.txt").read_text(encoding="utf-8")
    assert int(counted) > 10_000
    assert told["bytes"] == len(counted)


def test_a_quantiser_with_buckets(project: Path) -> None:
    """A student is trained, scored, packed, and kept separate from ternary students."""
    student = ("distill", "--task", "tiny", "--loss", "map", "--weights", "bucket3", "--max-steps", "10")
    told = json.loads(run(project, "kdqat", *student, "--json").stdout)
    assert Path(told["folder"]).name == "map-max_steps10-bucket3-42"
    scored = json.loads(run(project, "kdqat", "evaluate", told["folder"], "--json").stdout)
    assert scored["score"] == told["score"] > 80
    about = json.loads((project / told["folder"] / "model/kdqat.json").read_text(encoding="utf-8"))
    assert about["quantization"]["weights"] == "bucket3"
    packed = json.loads(run(project, "kdqat", "export", "--student", told["folder"], "--json").stdout)
    scored = json.loads(run(project, "kdqat", "evaluate", packed["folder"], "--json").stdout)
    assert scored["score"] == told["score"]


@pytest.mark.parametrize(
    ("plugins", "content", "said", "code"),
    [
        ("[nix.py]", None, "nix.py", 3),
        ("[mine.py]", "1 / 0", "the plugin mine.py fails: ZeroDivisionError: division by zero.", 2),
        ("[mine.py]", "from kdqat_cli.names import LOSSES; LOSSES.add('map')", "the name 'map' is taken.", 2),
        ("mine.py", "", "plugins: input should be a valid list", 2),
    ],
)
def test_a_faulty_plugin_is_reported_in_one_sentence(
    plugins: str, content: str | None, said: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(f"plugins: {plugins}\n", encoding="utf-8")
    if content is not None:
        (tmp_path / "mine.py").write_text(content, encoding="utf-8")
    done = run(tmp_path, "kdqat", "finetune-teacher", "--task", "movie", code=code)
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its own kind of task: points inside and outside of a circle."""
    folder = tmp_path_factory.mktemp("points")
    (folder / "tasks").mkdir()
    shutil.copy(REPOSITORY / "tests/points.py", folder / "points.py")
    (folder / "params.yaml").write_text("plugins: [points.py]\n", encoding="utf-8")
    task = "name: circle\nkind: points\ntitle: Points\nlabels: [out, in]\nmetric: accuracy\n"
    (folder / "tasks/circle.yaml").write_text(task + "files: {train: train.csv, dev: dev.csv}\n", encoding="utf-8")
    draw = random.Random(7)
    for split, count in (("train", 400), ("dev", 200)):
        pairs = [(draw.uniform(-1, 1), draw.uniform(-1, 1)) for _ in range(count)]
        rows = [f"{x},{y},{int(x * x + y * y < 0.6)}" for x, y in pairs]
        (folder / "tasks" / f"{split}.csv").write_text("\n".join(["x,y,label", *rows]) + "\n", encoding="utf-8")
    teach = ("finetune-teacher", "--task", "circle", "--network", "wide", "--epochs", "40", "--learning-rate", "2e-2")
    run(folder, "kdqat", *teach)
    return folder


def test_a_kind_of_task_with_a_network_from_one_file(points: Path) -> None:
    teacher = json.loads(run(points, "kdqat", "evaluate", "runs/circle/teacher", "--json").stdout)
    assert teacher["score"] > 90
    small = (
        "--network",
        "narrow",
        "--loss",
        "logits",
        "--weights",
        "int8",
        "--epochs",
        "40",
        "--learning-rate",
        "2e-2",
    )
    student = json.loads(run(points, "kdqat", "distill", "--task", "circle", *small, "--json").stdout)
    assert student["score"] > 85
    scored = json.loads(run(points, "kdqat", "evaluate", student["folder"], "--json").stdout)
    assert (scored["score"], scored["parameters"]) == (student["score"], 2 * 8 + 8 + 8 * 2 + 2)
    untrained = json.loads(run(points, "kdqat", "quantize", "--task", "circle", "--weights", "int4", "--json").stdout)
    assert untrained["score"] > 50
    assert "wide" in run(points, "kdqat", "ls", "networks").stdout


def test_a_task_and_a_model_of_different_kinds_are_refused(points: Path) -> None:
    said = run(points, "kdqat", "evaluate", "runs/circle/teacher", "--task", "digits", code=2).stderr
    assert "reads rows of the kind points, but task digits has rows of the kind image." in " ".join(said.split())
    said = run(points, "kdqat", "finetune-teacher", "--task", "circle", code=2).stderr
    assert "Task circle names no network to train." in " ".join(said.split())
    said = run(points, "kdqat", "distill", "--task", "circle", "--loss", "map", code=2).stderr
    assert "compares the layers of an encoder with those of its copy. try: --loss logits" in " ".join(said.split())
