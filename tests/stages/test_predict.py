"""`kdqat predict`: the answers of the evaluated model, a line at a time, of a packed file and of a folder."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from kdqat_cli.config import load_recipe
from kdqat_cli.errors import ConfigError
from kdqat_cli.quantization.layers import freeze
from kdqat_cli.quantization.model import quantize_model
from kdqat_cli.record import Record
from kdqat_cli.runtime.native import kernels
from kdqat_cli.stages.export import export
from kdqat_cli.stages.inference import predict_logits
from kdqat_cli.stages.models import load_classifier, load_encoder, save_classifier, student_record
from kdqat_cli.stages.predict import Text, open_model, predict, read_texts
from kdqat_cli.stages.rows import task_rows
from kdqat_cli.tasks.registry import Task, load_task
from tests.commands import environment, run


@pytest.fixture(scope="module")
def task(tiny_task: Path) -> Task:
    return load_task(str(tiny_task / "tiny.yaml"))


@pytest.fixture(scope="module")
def folder(task: Task, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with student/ and packed/ of an untrained model."""
    return made(tmp_path_factory.mktemp("predict"), task, tiny_encoder)


@pytest.fixture(scope="module")
def paired(task: Task, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a model for pairs of texts."""
    columns = task.columns.model_copy(update={"pair": "other"})
    return made(tmp_path_factory.mktemp("paired"), task.model_copy(update={"columns": columns}), tiny_encoder)


def made(folder: Path, task: Task, tiny_encoder: Path) -> Path:
    model, tokenizer = load_encoder(str(tiny_encoder), task)
    save_classifier(model, tokenizer, folder / "teacher", Record(kind="teacher"))
    teacher = load_classifier(folder / "teacher")
    settings = load_recipe("clean")
    quantize_model(teacher.model, settings.quantization)
    freeze(teacher.model)
    save_classifier(teacher.model, tokenizer, folder / "student", student_record("student", task, teacher, settings))
    export(str(folder / "student"), folder / "packed")
    return folder


@pytest.mark.parametrize("kind", ["packed", "student"])
def test_the_answers_are_those_of_the_evaluated_model(kind: str, folder: Path, task: Task) -> None:
    loaded = load_classifier(folder / "student")
    rows = task_rows(task, "dev", None, loaded.tokenizer, task.max_length)
    logits = predict_logits(loaded.model, rows.rows, loaded.tokenizer).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    lines = (task.folder or Path()).joinpath("dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [Text(line.split("\t")[0]) for line in lines]
    records = list(predict(open_model(str(folder / kind)), texts, batch_size=7))
    assert [record["text"] for record in records] == [text.text for text in texts]
    found = np.array([list(record["probabilities"].values()) for record in records])
    # The same bits. Torch, without the library, sums a padded batch in another order: now and then an activation falls
    # to the other side of a rounding, a step of 1/127.
    np.testing.assert_allclose(found, expected, atol=1e-6 if kernels() else 5e-3)
    assert all(record["label"] == max(record["probabilities"], key=record["probabilities"].get) for record in records)
    assert list(records[0]["probabilities"]) == ["sad", "glad"]


@pytest.mark.parametrize("kind", ["packed", "student"])
def test_a_pair_is_not_its_two_texts_in_one(kind: str, paired: Path) -> None:
    loaded = load_classifier(paired / "student")
    texts = Text("good film", "dull plot"), Text("good", "film dull plot")
    encoded = loaded.tokenizer(*map(list, zip(*texts, strict=True)), return_tensors="pt")
    with torch.no_grad():
        expected = loaded.model(**encoded).logits.softmax(-1).numpy()
    records = list(predict(open_model(str(paired / kind)), texts, batch_size=2))
    assert [(record["text"], record["pair"]) for record in records] == [tuple(text) for text in texts]
    found = np.array([list(record["probabilities"].values()) for record in records])
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert records[0]["probabilities"] != records[1]["probabilities"]


@pytest.mark.parametrize("kind", ["packed", "student"])
def test_what_the_model_was_not_trained_on_is_refused(kind: str, folder: Path, paired: Path) -> None:
    texts = Text("good film"), Text("good", "film")
    answers = predict(open_model(str(folder / kind)), texts, batch_size=1)
    assert next(answers)["text"] == "good film"
    with pytest.raises(ConfigError, match="Text 2 is a pair, but the model was trained on single texts"):
        next(answers)
    with pytest.raises(ConfigError, match="Text 1 is a single text, but the model was trained on pairs of texts"):
        next(predict(open_model(str(paired / kind)), texts, batch_size=1))
    told = run(folder, "kdqat", "predict", kind, "good", "film", code=2).stderr
    assert 'kdqat predict MODEL "A text."' in told


def test_a_model_that_does_not_say_takes_both(folder: Path) -> None:
    texts = Text("good film"), Text("good", "film")
    assert len(list(predict(open_model(str(folder / "teacher")), texts, batch_size=1))) == 2


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_threads_are_torch_s_where_torch_loads_the_model(kind: str, folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        open_model(str(folder / kind), threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_lines_are_texts_pairs_or_objects() -> None:
    lines = ["a film\n", "a\tb\r\n", '{"text": "c\\td"}', '{"text": "e", "pair": "f"}', ""]
    expected = [Text("a film"), Text("a", "b"), Text("c\td"), Text("e", "f"), Text("")]
    assert list(read_texts(lines, "here")) == expected


@pytest.mark.parametrize("line", ["{", '{"txt": "a"}', '{"text": 1}', '{"text": "a", "pair": 2}'])
def test_a_wrong_line_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="here, line 2"):
        list(read_texts(["good", line], "here"))


def test_lines_stream_through_a_pipe_without_torch(folder: Path) -> None:
    """The answer to the first line is there before the second is written."""
    command = ["kdqat", "predict", str(folder / "packed"), "--batch-size", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("a good film", "a dull film"):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
    assert process.returncode == 0
    check = "import sys; from kdqat_cli.cli import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    run(folder, "python", "-c", check, "predict", "packed", "good")


def test_mistakes_are_one_sentence(folder: Path) -> None:
    assert "no file nowhere.txt" in run(folder, "kdqat", "predict", "packed", "--file", "nowhere.txt", code=3).stderr
    assert "one of them" in run(folder, "kdqat", "predict", "packed", "text", "--file", "x", code=2).stderr
    assert "no model folder" in run(folder, "kdqat", "predict", "./nothing", "text", code=3).stderr
    (folder / "packed/model/tokenizer.json").rename(folder / "aside")
    try:
        assert "not the tokenizer" in run(folder, "kdqat", "predict", "packed", "text", code=3).stderr
    finally:
        (folder / "aside").rename(folder / "packed/model/tokenizer.json")
