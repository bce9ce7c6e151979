"""`kdqat predict`: the answers equal those of the evaluated model, line by line, for a packed file and a folder."""

import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from kdqat_cli.engine.row import Row
from kdqat_cli.native.library import kernels
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.params import load_recipe
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record
from kdqat_cli.stages.export import export
from kdqat_cli.stages.predict import open_model, predict
from kdqat_cli.tasks.models import student_record
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.answers import TextAnswerer
from kdqat_cli.tasks.text.inference import predict_logits
from kdqat_cli.tasks.text.models import load_classifier, load_encoder, save_classifier
from kdqat_cli.tasks.text.rows import task_rows
from kdqat_cli.tasks.text.schema import TextTask
from kdqat_cli.texts import Text
from tests.commands import environment, run


@pytest.fixture(scope="module")
def task(tiny_task: Path) -> TextTask:
    return load_text_task(str(tiny_task / "tiny.yaml"))


@pytest.fixture(scope="module")
def folder(task: TextTask, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with student/ and packed/ of an untrained model."""
    return made(tmp_path_factory.mktemp("predict"), task, tiny_encoder)


@pytest.fixture(scope="module")
def paired(task: TextTask, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a model of pairs of texts."""
    columns = task.columns.model_copy(update={"pair": "other"})
    return made(tmp_path_factory.mktemp("paired"), task.model_copy(update={"columns": columns}), tiny_encoder)


def made(folder: Path, task: TextTask, tiny_encoder: Path) -> Path:
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
def test_the_answers_are_those_of_the_evaluated_model(kind: str, folder: Path, task: TextTask) -> None:
    loaded = load_classifier(folder / "student")
    rows = task_rows(task, "dev", None, loaded.tokenizer, task.max_length)
    logits = predict_logits(loaded.model, rows.rows, loaded.tokenizer).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    lines = (task.folder or Path()).joinpath("dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [Text(line.split("\t")[0]) for line in lines]
    records = list(predict(open_model(str(folder / kind)), [texts[:7], texts[7:]]))
    assert [record["text"] for record in records] == [text.text for text in texts]
    found = np.array([list(record["probabilities"].values()) for record in records])
    # The bits are equal. Without the library, torch sums a padded batch in another order, so rarely an activation is
    # rounded to the other side, a step of 1/127.
    np.testing.assert_allclose(found, expected, atol=1e-6 if kernels() else 5e-3)
    assert all(record["probabilities"][record["label"]] == max(record["probabilities"].values()) for record in records)
    assert list(records[0]["probabilities"]) == ["sad", "glad"]


@pytest.mark.parametrize("kind", ["packed", "student"])
def test_a_pair_is_not_its_two_texts_in_one(kind: str, paired: Path) -> None:
    loaded = load_classifier(paired / "student")
    texts = Text("good film", "dull plot"), Text("good", "film dull plot")
    encoded = loaded.tokenizer(*map(list, zip(*texts, strict=True)), return_tensors="pt")
    with torch.no_grad():
        expected = loaded.model(**encoded).logits.softmax(-1).numpy()
    records = list(predict(open_model(str(paired / kind)), [list(texts)]))
    assert [(record["text"], record["pair"]) for record in records] == [tuple(text) for text in texts]
    found = np.array([list(record["probabilities"].values()) for record in records])
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert records[0]["probabilities"] != records[1]["probabilities"]


def test_texts_of_another_form_than_in_the_training_are_refused(folder: Path, paired: Path) -> None:
    runner = open_model(str(folder / "packed"))
    assert runner.pairs is False
    assert open_model(str(paired / "packed")).pairs is True
    (folder / "pairs.tsv").write_text("good film\ngood\tfilm\nlast\n", encoding="utf-8")
    done = run(folder, "kdqat", "predict", "packed", "--file", "pairs.tsv", code=2)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["good film"]
    assert "pairs.tsv, line 2 is a pair, but the model was trained on single texts" in done.stderr
    assert 'kdqat predict MODEL "A text."' in done.stderr


def test_a_model_without_a_recorded_form_takes_texts_and_pairs(folder: Path) -> None:
    """It reads each in its own form, with the engine and with torch."""
    runner = open_model(str(folder / "teacher"))
    assert isinstance(runner, TextAnswerer)
    texts = [Text("good film"), Text("good", "film"), Text("dull plot")]
    assert [types for _, types in runner.read(texts)] == [[0] * 4, [0, 0, 0, 1, 1], [0] * 4]
    together = list(predict(runner, [texts]))
    alone = list(predict(runner, [[text] for text in texts]))
    for one, other in zip(together, alone, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.mark.parametrize("kind", ["packed", "student", "teacher"])
def test_an_answer_that_is_not_finite_is_an_error(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = open_model(str(folder / kind))
    assert isinstance(runner, TextAnswerer)
    compute = runner.logits

    def overflowing(rows: list[Row]) -> NDArray[np.float32]:
        logits = compute(rows)
        logits[1, 0] = np.inf
        return logits

    monkeypatch.setattr(runner, "logits", overflowing)
    good, bad, last = predict(runner, [[Text("good film"), Text("dull plot"), Text("bad")]])
    assert bad == {"text": "dull plot", "error": "The model's answer is NaN or infinite."}
    assert {"label", "probabilities"} <= set(good) & set(last)


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_threads_are_those_of_torch_if_torch_loads_the_model(kind: str, folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        open_model(str(folder / kind), threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not kernels(), reason="the native library was not built")
@pytest.mark.parametrize(("stack", "fewer"), [(2**30, True), (2**23, False)])
def test_fewer_threads_are_used_if_some_cannot_start(stack: int, fewer: bool, folder: Path) -> None:
    """The system reserves a stack for each thread. This process may not have 64 stacks of 1 GiB, but 64 of 8 MiB."""

    def answers(*options: str, limit: Callable[[], None] | None = None) -> "subprocess.CompletedProcess[str]":
        command = ["kdqat", "predict", str(folder / "packed"), *options]
        return subprocess.run(
            command, input="a good film", text=True, capture_output=True, env=environment(), preexec_fn=limit
        )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))

    done = answers("--threads", "64", limit=limit)
    assert done.returncode == 0, done.stderr
    assert ("of 64 threads could be started." in done.stderr) == fewer, done.stderr
    assert done.stdout == answers("--threads", "1").stdout


def test_a_plain_model_reads_as_far_as_its_positions(tiny_encoder: Path, tmp_path: Path) -> None:
    """Tokens after the 512th still have an effect."""
    config = AutoConfig.from_pretrained(tiny_encoder, max_position_embeddings=700, num_labels=2)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder, model_max_length=10**30)
    tokenizer.save_pretrained(tmp_path)
    text = "good film " * 300 + "bad " * 40
    with torch.no_grad():
        expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
    (answer,) = predict(open_model(str(tmp_path)), [[Text(text)]])
    assert list(answer["probabilities"].values()) == pytest.approx(expected, rel=1e-5)


def test_lines_stream_through_a_pipe_without_torch(folder: Path) -> None:
    """The answer to the first line arrives before the second is written; lines that arrive together are one batch."""
    command = ["kdqat", "predict", str(folder / "packed")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for texts in (["a good film"], ["a dull film", "", "bad"]):
            process.stdin.write("".join(text + "\n" for text in texts))
            process.stdin.flush()
            assert [json.loads(process.stdout.readline())["text"] for _ in texts] == texts
        process.stdin.close()
    assert process.returncode == 0
    check = "import sys; from kdqat_cli.cli import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    run(folder, "python", "-c", check, "predict", "packed", "good")


def test_each_mistake_is_reported_in_one_sentence(folder: Path) -> None:
    assert (
        "nowhere.txt cannot be read: No such file"
        in run(folder, "kdqat", "predict", "packed", "--file", "nowhere.txt", code=3).stderr
    )
    assert "one of them" in run(folder, "kdqat", "predict", "packed", "text", "--file", "x", code=2).stderr
    assert "no model folder" in run(folder, "kdqat", "predict", "./nothing", "text", code=3).stderr
    dashed = run(folder, "kdqat", "predict", "packed", "--- what a film", code=2).stderr
    assert "No such option: --- what a film; put -- before a text that begins with a dash" in dashed
    (folder / "packed/model/tokenizer.json").rename(folder / "aside")
    try:
        assert "not the tokenizer" in run(folder, "kdqat", "predict", "packed", "text", code=3).stderr
    finally:
        (folder / "aside").rename(folder / "packed/model/tokenizer.json")
