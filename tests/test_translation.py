"""The chain of commands on translation by small LSTMs: German digits to English digits in reversed order."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from safetensors.torch import load_file

from tests.commands import run

pytestmark = pytest.mark.pipeline

GERMAN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben"]
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
TASK = """\
name: count
kind: translation
title: Digits, the last one first
languages: [de, en]
files:
  train: [train.de, train.en]
  dev: [dev.de, dev.en]
  test: [test.de, test.en]
network: lstm-small
beam: 2
most: 10
"""
LEARN = ("--task", "count.yaml", "--batch-size", "16", "--learning-rate", "1e-2")
STUDENT = ("distill", *LEARN, "--teacher", "runs/count/teacher", "--recipe", "polino", "--bits", "4")
SHORT = ("--epochs", "1")


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(folder, "kdqat", *arguments, "--json").stdout)
    return found


def refused(folder: Path, code: int, *arguments: str) -> str:
    said = run(folder, "kdqat", *arguments, code=code).stderr
    assert "Traceback" not in said
    return " ".join(said.split())


def write(folder: Path, split: str, rows: int) -> None:
    draw = random.Random(split)
    digits = [[draw.randrange(8) for _ in range(draw.randint(2, 4))] for _ in range(rows)]
    for language, words, step in (("de", GERMAN, 1), ("en", ENGLISH, -1)):
        lines = [" ".join(words[digit] for digit in row[::step]) + ".\n" for row in digits]
        (folder / f"{split}.{language}").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task and a teacher."""
    folder = tmp_path_factory.mktemp("count")
    (folder / "count.yaml").write_text(TASK, encoding="utf-8")
    for split, rows in {"train": 500, "dev": 40, "test": 40}.items():
        write(folder, split, rows)
    run(folder, "kdqat", "finetune-teacher", *LEARN, "--epochs", "6")
    return folder


def test_a_smaller_student_and_the_teacher_itself_in_few_bits(count: Path) -> None:
    teacher = told(count, "evaluate", "runs/count/teacher")
    assert teacher["score"] == teacher["bleu"] > 70
    assert teacher["chrf"] > 70
    assert 1 < teacher["perplexity"] < 2
    assert teacher["rows"] == teacher["test_rows"] == 40
    dq = ("--method", "dq", "--weights", "points")
    students = {
        "qd": (*STUDENT, "--network", "lstm-tiny", "--method", "qd", "--epochs", "12", "--out", "qd"),
        "dq": (*STUDENT, *dq, *SHORT, "--out", "dq"),
    }
    for name, options in students.items():
        made = told(count, *options)
        scored = told(count, "evaluate", name)
        assert scored["score"] == made["score"] > 50
        packed = told(count, "export", "--student", name, "--out", f"{name}-packed")["folder"]
        again = told(count, "evaluate", packed)
        assert {key for key in scored if again[key] != scored[key]} == {"bytes", "bits_per_weight", "ratio_to_fp32"}
        assert again["bytes"] < scored["bytes"] / 3
        for parameter, weight in load_file(count / name / "model/model.safetensors").items():
            assert "parametrizations" not in parameter
            if weight.dim() > 1:
                buckets = [part.unique().numel() for part in weight.flatten().split(256)]
                assert max(buckets) <= 16, f"{parameter}: four bits"
    vocabularies = {
        (count / place / "model/vocabulary.json").read_bytes() for place in ("runs/count/teacher", *students)
    }
    assert len(vocabularies) == 1, "a student has the words of its teacher"
    words = count / "qd-packed/model/vocabulary.json"
    words.write_text(words.read_text(encoding="utf-8").replace("drei", "dei"), encoding="utf-8")
    assert "the network was trained with another vocabulary.json" in refused(count, 3, "evaluate", "qd-packed")


def test_two_devices_train_like_one(count: Path) -> None:
    """The losses are means over all words of a batch, not means of the means of sentences or devices."""
    losses = []
    for devices in ("1", "2"):
        out = f"on-{devices}"
        options = ("--network", "lstm-tiny", "--set", "student.max_steps=3", "--devices", devices, "--out", out)
        run(count, "kdqat", *STUDENT, *options)
        last = (count / out / "history.csv").read_text().splitlines()[-1].split(",")
        losses.append([float(cell) for cell in last])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_vocabulary_is_never_made_again(count: Path) -> None:
    """Other training rows would number the words differently, and a network is useless without its words."""
    before = told(count, "evaluate", "runs/count/teacher")
    kept = {path: path.read_bytes() for path in (count / "train.de", count / "train.en")}
    write(count, "train", 20)
    assert told(count, "evaluate", "runs/count/teacher") == before
    for path, rows in kept.items():
        path.write_bytes(rows)
    shutil.copytree(count / "runs/count/teacher", count / "hollow")
    path = count / "hollow/model/vocabulary.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    for content, said in {
        json.dumps(words | {"source": words["source"][1:]}): "has 10 source words, special ones included",
        json.dumps(words | {"source": words["source"][::-1]}): "the network was trained with another",
        "{": "vocabulary.json is not JSON; the vocabulary is damaged. try: kdqat finetune-teacher, to make it again",
    }.items():
        path.write_text(content, encoding="utf-8")
        assert said in refused(count, 3, "evaluate", "hollow")
    path.unlink()
    assert "has no vocabulary.json" in refused(count, 3, "distill", "--task", "count.yaml", "--teacher", "hollow")


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (2, ("finetune-teacher", "--task", "count.yaml", "--encoder", "embedded"), "--encoder has no meaning for task"),
        (2, ("finetune-teacher", *LEARN, "--network", "lstm-tniy"), "reads rows of the kind translation; did you mean"),
        (2, ("finetune-teacher", *LEARN, "--max-length", "9"), "teacher.max_length has no meaning for task count"),
        (2, (*STUDENT, "--network", "conv-digits"), "There is no network 'conv-digits' that reads rows of the kind"),
        (2, (*STUDENT, "--loss", "logits", "--set", "distillation.targets=me"), "should be 'references' or 'teacher'"),
        (2, (*STUDENT, "--loss", "map"), "The loss map compares the layers of an encoder"),
        (2, ("evaluate", "runs/count/teacher", "--max-length", "9"), "--max-length has no meaning for task count"),
        (
            2,
            ("evaluate", "runs/count/teacher", "--task", "movie"),
            "reads rows of the kind translation, but task movie",
        ),
        (
            2,
            ("evaluate", "runs/count/teacher", "--task", "other.yaml"),
            "translates de → en, but task other is nl → en",
        ),
        (
            2,
            ("evaluate", "runs/count/teacher", "--task", "low.yaml"),
            "was made for lower: False, but task low has True",
        ),
        (3, ("finetune-teacher", "--task", "multi30k"), "Task multi30k: there is no multi30k/train.de in"),
    ],
)
def test_settings_that_do_not_fit_are_refused(code: int, arguments: tuple[str, ...], said: str, count: Path) -> None:
    (count / "other.yaml").write_text(TASK.replace("count", "other").replace("[de, en]", "[nl, en]", 1))
    (count / "low.yaml").write_text(TASK.replace("count", "low") + "lower: true\n")
    assert said in refused(count, code, *arguments)


def test_a_line_is_a_sentence_and_its_answer_a_translation(count: Path) -> None:
    lines = (count / "test.de").read_text(encoding="utf-8").splitlines()
    (count / "lines.txt").write_text("\n".join([*lines, "", lines[0]]) + "\n", encoding="utf-8")
    done = run(count, "kdqat", "predict", "runs/count/teacher", "--file", "lines.txt", code=3)
    *answers, empty, again = map(json.loads, done.stdout.splitlines())
    assert [answer["text"] for answer in answers] == lines
    assert empty == {"text": "", "error": "The line has no words."}
    assert again == answers[0]
    references = (count / "test.en").read_text(encoding="utf-8").splitlines()
    score = sacrebleu.corpus_bleu([answer["translation"] for answer in answers], [references], force=True).score
    assert score == pytest.approx(told(count, "evaluate", "runs/count/teacher")["test_bleu"])


def test_a_student_learns_from_its_teachers_translations_which_are_cached(count: Path) -> None:
    learn = (*STUDENT, "--network", "lstm-tiny", "--epochs", "2", "--set", "distillation.targets=teacher")
    told(count, *learn, "--out", "taught")
    (kept,) = (count / "runs/count/taught").iterdir()
    translations = json.loads(kept.read_text(encoding="utf-8"))["translations"]
    assert len(translations) == 500
    references = (count / "train.en").read_text(encoding="utf-8").splitlines()
    assert 50 < sacrebleu.corpus_bleu(translations, [references], force=True).score < 100
    # Cached translations are read the next time: other sentences in the cache give another student.
    weights = [(count / "taught/model/model.safetensors").read_bytes()]
    for out, sentences in (("again", translations), ("other", ["zero ."] * 500)):
        kept.write_text(json.dumps({"version": 1, "translations": sentences}), encoding="utf-8")
        told(count, *learn, "--out", out)
        weights.append((count / out / "model/model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    kept.write_text(json.dumps({"version": 1, "translations": ["zero ."]}), encoding="utf-8")
    assert "does not have 500 translations; it is damaged" in refused(count, 3, *learn, "--out", "third")
    kept.unlink()


def test_words_may_be_pieces(count: Path) -> None:
    pytest.importorskip("sentencepiece")
    (count / "pieces.yaml").write_text(TASK.replace("count", "pieces") + "words: sentencepiece\nvocabulary: 40\n")
    learn = ("--task", "pieces.yaml", "--batch-size", "16", "--learning-rate", "1e-2")
    run(count, "kdqat", "finetune-teacher", *learn, "--epochs", "6")
    scored = told(count, "evaluate", "runs/pieces/teacher")
    assert scored["bleu"] > 50
    vocabulary = count / "runs/pieces/teacher/model/vocabulary.json"
    words = json.loads(vocabulary.read_text(encoding="utf-8"))
    assert len(words["models"]) == 2
    assert len(words["source"]) < 40
    done = run(count, "kdqat", "predict", "runs/pieces/teacher", "eins zwei.").stdout
    assert "▁" not in json.loads(done)["translation"]
    said = refused(count, 2, "evaluate", "runs/count/teacher", "--task", "pieces.yaml")
    assert "was made for words: 13a, but task pieces has sentencepiece" in said
    for model in ("AAAA", "?"):
        vocabulary.write_text(json.dumps(words | {"models": [model, model]}), encoding="utf-8")
        assert "vocabulary.json" in refused(count, 3, "evaluate", "runs/pieces/teacher")
