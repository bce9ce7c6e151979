"""Models in a Python program: the answers of `kdqat predict`, from threads, after a fork, and without torch."""

import json
import multiprocessing
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.serving import load
from tests import commands

TEXTS = ["a great film", "the plot is bad", "dull music", "brave and warm", "sour ending of the day"] * 8
WITHOUT_TORCH = """\
import sys
sys.modules["torch"] = None  # importing it fails
from kdqat_cli.serving import load
print(load(sys.argv[1])("a great film")["label"])
"""
AT_EXIT = """\
import sys, torch
from kdqat_cli.serving import load
model = load(sys.argv[1])
answers = [lambda: model("a great film")]
print(answers[0]()["label"])
"""

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A working folder with a packed student of the task tiny."""
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(tiny_task, folder / "tasks")
    small = ("--task", "tiny", "--batch-size", "8", "--learning-rate", "4e-3", "-q")
    commands.run(folder, "kdqat", "finetune-teacher", *small, "--encoder", str(tiny_encoder), "--epochs", "12")
    commands.run(folder, "kdqat", "distill", *small, "--epochs", "1", "--out", "student")
    commands.run(folder, "kdqat", "export", "--student", "student", "--out", "packed", "-q")
    return folder


def predicted(folder: Path, model: str) -> list[dict[str, Any]]:
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    lines = commands.run(folder, "kdqat", "predict", model, "--file", "texts.txt").stdout.splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "text"} for line in lines]


@pytest.mark.parametrize("name", ["packed", "student"])
def test_answers_are_those_of_predict(folder: Path, name: str) -> None:
    model = load(folder / name / "model")
    assert model(TEXTS) == predicted(folder, f"{name}/model")
    assert [model(text) for text in TEXTS[:5]] == model(TEXTS)[:5] == model(TEXTS[:5], batch_size=2)
    assert model([]) == []


def test_labels_and_logits(folder: Path) -> None:
    model = load(folder / "packed")
    assert model.labels is not None
    logits = model.logits(TEXTS[:3])
    assert logits.shape == (3, len(model.labels))
    assert [model.labels[int(row.argmax())] for row in logits] == [answer["label"] for answer in model(TEXTS[:3])]


def test_threads_share_a_model(folder: Path) -> None:
    model = load(folder / "packed", threads=2)
    alone = [model(text) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model, TEXTS)) == alone


def _answer_in_child(model: Any, queue: Any) -> None:
    queue.put(model(TEXTS[:5]))


def test_a_forked_process_answers_too(folder: Path) -> None:
    model = load(folder / "packed", threads=2)
    before = model(TEXTS[:5])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_answer_in_child, args=(model, queue))
    child.start()
    assert queue.get(timeout=60) == before
    child.join()
    assert model(TEXTS[:5]) == before


def test_a_packed_model_needs_no_torch(folder: Path) -> None:
    done = commands.run(folder, sys.executable, "-c", WITHOUT_TORCH, "packed")
    assert done.stdout.strip() == load(folder / "packed")(TEXTS[0])["label"]


def test_a_program_ends_without_a_message(folder: Path) -> None:
    # torch keeps the program's functions, and so the model, until the interpreter has cleared its modules.
    assert commands.run(folder, sys.executable, "-c", AT_EXIT, "packed").stderr == ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("a", "b"), "is a pair, but the model was trained on single texts"),
        (3, "int is neither"),
        (None, "NoneType is neither"),
        (["a", b"b"], "bytes is neither"),
        ("\ud800", "is not valid Unicode"),
    ],
)
def test_wrong_arguments_are_reported_in_one_sentence(folder: Path, given: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(folder / "packed")(given)


def test_a_missing_model_and_a_text_without_tokens(folder: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        load(folder / "nowhere")
    with pytest.raises(ConfigError, match="batch_size"):
        load(folder / "packed")(TEXTS, batch_size=0)
    assert np.isfinite(load(folder / "packed").logits([""])).all()  # [CLS] [SEP]
