"""Diverging trainings, through the commands: one sentence, and no file is overwritten."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import run
from tests.conftest import VOCABULARY

WORD = "camera"
UNSEEN = ("--eval-every", "30")  # an evaluation checks all weights; the row with WORD occurs in the 26 steps before it


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the task `tiny` and a teacher. Only one row, in train, has the word WORD."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_task, folder / "tasks")
    for name in ("train", "dev"):
        path = folder / "tasks" / f"{name}.tsv"
        path.write_text(path.read_text(encoding="utf-8").replace(WORD, "music"), encoding="utf-8")
    with (folder / "tasks/train.tsv").open("a", encoding="utf-8") as file:
        file.write(f"a bad {WORD}\tsad\n")
    train(folder, "finetune-teacher", "--encoder", str(tiny_encoder))
    return folder


def train(folder: Path, command: str, *options: str, code: int = 0) -> str:
    short = ["--epochs", "2", "--batch-size", "8", "--eval-every", "10", "--learning-rate", "4e-3"]
    done = run(folder, "kdqat", command, "--task", "tiny", *short, *options, code=code)
    return " ".join(done.stderr.split())


def poison(model: Path, copy: Path) -> Path:
    """A copy of a model in which the embedding of one word is finite, but so large that its variance is infinite."""
    shutil.copytree(model, copy)
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][VOCABULARY.index(WORD)] = 3e38
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a stage's results."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".kdqat-resume" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def checkpoints(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in (folder / ".kdqat-resume").rglob("model.safetensors")]


def test_the_training_of_a_teacher_stops_at_nan(project: Path, tiny_encoder: Path) -> None:
    folder = project / "runs/tiny/teacher"
    before = contents(folder)
    assert before.keys() >= {"model/model.safetensors", "history.csv", "run.json"}
    sick = poison(tiny_encoder, project / "encoder")
    said = train(project, "finetune-teacher", "--force", "--encoder", str(sick), *UNSEEN, code=4)
    assert (
        "of 52, before anything was overwritten: the loss term labels is not finite, "
        "first the output of the model's bert.embeddings.LayerNorm" in said
    )
    assert "try: the same command with a --learning-rate below 0.004" in said
    assert contents(folder) == before


def test_the_training_of_a_student_stops_at_nan(project: Path) -> None:
    sick = poison(project / "runs/tiny/teacher/model", project / "teacher")
    said = train(project, "distill", "--loss", "map", "--teacher", str(sick), "--out", "sick", *UNSEEN, code=4)
    assert (
        "the loss term hidden (layer 0) is not finite, first the output of the teacher's bert.embeddings.LayerNorm"
        in said
    )
    assert (project / "sick").is_dir()
    assert not contents(project / "sick")


def test_a_training_with_a_diverging_loss_stops(project: Path) -> None:
    said = train(project, "distill", "--loss", "score", "--learning-rate", "0.5", "--out", "grown", code=4)
    assert "before anything was overwritten: the loss has grown from" in said
    assert "its term score from" in said
    folder = project / "grown"
    assert folder.is_dir()
    assert not contents(folder)
    assert all(values.isfinite().all() for weights in checkpoints(folder) for values in weights.values())
