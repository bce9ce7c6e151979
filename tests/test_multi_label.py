"""Multi-label tasks through the whole chain of commands: rows with any number of labels, also none."""

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from scipy.special import expit
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoConfig, AutoTokenizer

from kdqat_cli.exporters import gguf_file
from kdqat_cli.exporters.catalogue import FORMATS
from kdqat_cli.packing.packed_file import PackedFile, PackedParts, packed_record
from kdqat_cli.packing.soundness import fault_of
from kdqat_cli.serving import load
from kdqat_cli.tasks.text.models import load_classifier
from tests.commands import run
from tests.conftest import GLAD, NEUTRAL, SAD

pytestmark = pytest.mark.pipeline

LABELS = ["glad", "sad", "long"]
TASK = """\
name: moods
title: What a sentence is
files: {train: train.csv, dev: dev.jsonl, test: test.csv}
columns: {text: sentence, label: is}
labels: [glad, sad, long]
multi_label: true
metric: micro_f1
also: [macro_f1, accuracy]
max_length: 24
"""
SMALL = ("--task", "moods", "--batch-size", "8", "--learning-rate", "4e-3", "-q")


def sentences(count: int) -> list[tuple[str, list[str]]]:
    """Short and long sentences with a glad word, a sad word, both, or neither."""
    draw = random.Random(1)
    rows = []
    for _ in range(count):
        held = [name for name in LABELS if draw.random() < 0.45]
        words = draw.choices(NEUTRAL, k=12 if "long" in held else 4)
        words += [draw.choice(GLAD)] * ("glad" in held) + [draw.choice(SAD)] * ("sad" in held)
        draw.shuffle(words)
        rows.append((" ".join(words), held))
    return rows


def write_task(folder: Path) -> list[tuple[str, list[str]]]:
    """The task `moods` in a folder; returns its dev rows."""
    rows = sentences(320)
    folder.mkdir()
    (folder / "moods.yaml").write_text(TASK, encoding="utf-8")
    for name, part in (("train", rows[:200]), ("test", rows[260:])):
        lines = "".join(f"{sentence},{'|'.join(held)}\n" for sentence, held in part)
        (folder / f"{name}.csv").write_text(f"sentence,is\n{lines}", encoding="utf-8")
    dev = "".join(json.dumps({"sentence": sentence, "is": held}) + "\n" for sentence, held in rows[200:260])
    (folder / "dev.jsonl").write_text(dev, encoding="utf-8")
    return rows[200:260]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A working folder with the task, its teacher, a student and its packed file."""
    folder = tmp_path_factory.mktemp("moods")
    write_task(folder / "tasks")
    run(
        folder, "kdqat", "finetune-teacher", *SMALL, "--encoder", str(tiny_encoder), "--epochs", "8", "--out", "teacher"
    )
    run(folder, "kdqat", "distill", *SMALL, "--teacher", "teacher", "--epochs", "3", "--out", "student")
    run(folder, "kdqat", "export", "--student", "student", "--out", "packed", "-q")
    return folder


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(folder, "kdqat", "evaluate", *arguments, "--json").stdout)
    return found


def dev_rows(folder: Path) -> tuple[list[str], np.ndarray]:
    lines = [json.loads(line) for line in (folder / "tasks/dev.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["sentence"] for line in lines], np.array([[name in line["is"] for name in LABELS] for line in lines])


def test_scores_are_those_of_scikit_learn_at_the_recorded_threshold(project: Path) -> None:
    found = told(project, "packed", "--out", "packed.json")
    assert found.items() >= {key: told(project, "student")[key] for key in ("score", "threshold", "macro_f1")}.items()
    texts, gold = dev_rows(project)
    probabilities = expit(load(project / "packed").logits(texts).astype(np.float64))
    answers = probabilities >= found["threshold"]
    assert found["score"] == found["micro_f1"] == pytest.approx(100 * f1_score(gold, answers, average="micro"))
    assert found["macro_f1"] == pytest.approx(100 * f1_score(gold, answers, average="macro"))
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(gold, answers))
    best = max(f1_score(gold, probabilities >= number / 100, average="micro") for number in range(1, 100))
    assert found["score"] == pytest.approx(100 * best)
    assert found["score"] > 80, "it learns"
    assert found["test_threshold"] == found["threshold"], "the threshold is chosen only on dev"


def test_record_configuration_and_packed_file_have_the_threshold(project: Path) -> None:
    threshold = told(project, "student")["threshold"]
    for folder in ("student", "packed"):
        config = json.loads((project / folder / "model/config.json").read_text(encoding="utf-8"))
        assert (config["problem_type"], config["threshold"]) == ("multi_label_classification", threshold)
    assert json.loads((project / "student/model/kdqat.json").read_text(encoding="utf-8"))["threshold"] == threshold
    assert packed_record(project / "packed/model/kdqat.safetensors").threshold == threshold
    assert AutoConfig.from_pretrained(project / "student/model").threshold == threshold


def test_a_packed_file_that_contradicts_itself_is_refused(project: Path) -> None:
    file = PackedFile(project / "packed/model/kdqat.safetensors")
    for threshold in (0.987, None):
        record = file.record.model_copy(update={"threshold": threshold})
        fault = fault_of(PackedParts(file.arrays, file.config, record, file.shapes, file.coded))
        assert fault == f"the record has the threshold {threshold}, but the configuration {file.record.threshold}."
    plain = {name: value for name, value in file.config.items() if name != "threshold"}
    assert fault_of(PackedParts(file.arrays, plain, file.record, file.shapes, file.coded)) is not None


def test_served_answers_equal_evaluated_answers(project: Path) -> None:
    texts, gold = dev_rows(project)
    (project / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    served = {}
    for name in ("packed", "student", "teacher"):
        lines = run(project, "kdqat", "predict", name, "--file", "texts.txt").stdout.splitlines()
        served[name] = [json.loads(line) for line in lines]
        answers = np.array([[label in line["labels"] for label in LABELS] for line in served[name]])
        found = told(project, name)
        assert found["micro_f1"] == pytest.approx(100 * f1_score(gold, answers, average="micro"))
        assert all("label" not in line and list(line["probabilities"]) == LABELS for line in served[name])
    assert served["packed"] == served["student"]
    assert any(not line["labels"] for line in served["packed"]), "an answer may have no label"
    model = load(project / "packed")
    assert [{"text": text} | answer for text, answer in zip(texts, model(texts), strict=True)] == served["packed"]
    expected = expit(model.logits(texts[:1])[0].astype(np.float64))
    assert list(served["packed"][0]["probabilities"].values()) == pytest.approx(expected, abs=1e-6)


def test_details_count_each_label_separately(project: Path) -> None:
    found = told(project, "packed", "--details", "d", "--teacher", "teacher")
    assert sorted(path.name for path in (project / "d").glob("*.csv")) == [
        "classes.csv", "test_classes.csv", "test_wrong.csv", "wrong.csv",
    ]  # fmt: skip
    with (project / "d/classes.csv").open(encoding="utf-8", newline="") as file:
        classes = list(csv.DictReader(file))
    texts, gold = dev_rows(project)
    assert [int(row["rows"]) for row in classes] == gold.sum(axis=0).tolist()
    assert np.mean([float(row["f1"]) for row in classes]) == pytest.approx(found["macro_f1"], abs=1e-3)
    with (project / "d/wrong.csv").open(encoding="utf-8", newline="") as file:
        wrong = list(csv.DictReader(file))
    assert len(wrong) == pytest.approx(60 * (1 - found["accuracy"] / 100))
    for row in wrong:
        assert row["label"] == "|".join(np.array(LABELS)[gold[int(row["row"]) - 1]])
        assert row["text"] == texts[int(row["row"]) - 1]
        assert row["label"] != row["predicted"]


def test_a_table_has_the_labels_of_each_row(project: Path) -> None:
    """A gold label in the table is beside the columns of the answer, which have other names."""
    run(project, "kdqat", "predict", "packed", "--file", "tasks/test.csv", "--out", "table.csv", "--top-k", "2")
    with (project / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = load(project / "packed")([row["sentence"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert row["labels"] == "|".join(answer["labels"])
        chances = [str(answer["probabilities"][label]) for label in answer["labels"]]
        assert row["probabilities"] == "|".join(chances)
        assert float(row["probability_1"]) == max(answer["probabilities"].values())
    gold = np.array([[name in row["is"].split("|") for name in LABELS] for row in rows])
    found = np.array([[name in row["labels"].split("|") for name in LABELS] for row in rows])
    assert told(project, "packed")["test_micro_f1"] == pytest.approx(100 * f1_score(gold, found, average="micro"))


@pytest.mark.parametrize(
    ("format_name", "package"),
    [
        ("dense", "transformers"),
        ("hf", "accelerate"),
        ("hf-compressed", "compressed_tensors"),
        ("onnx", "onnxscript"),
        pytest.param("gguf", "llama_cpp", marks=pytest.mark.slow),
    ],
)
def test_other_formats_hold_the_probabilities_and_the_meaning(project: Path, format_name: str, package: str) -> None:
    """Each on its own engine; activations that it rounds otherwise move a probability a little."""
    pytest.importorskip(package)
    command = ("kdqat", "export", "--student", "packed", "--format", format_name, "--json")
    found = json.loads(run(project, *command).stdout)
    assert found["rows"] == 60
    assert abs(found["score"] - found["student_score"]) < 3
    folder = project / f"packed-{format_name}/model"
    texts, _ = dev_rows(project)
    tokenizer = AutoTokenizer.from_pretrained(project / "packed/model")
    batch = {name: np.asarray(ids) for name, ids in tokenizer(texts, padding=True).items()}
    (logits,) = FORMATS[format_name].logits(folder, [batch])
    probabilities = expit(load(project / "packed").logits(texts).astype(np.float64))
    assert np.abs(expit(logits.astype(np.float64)) - probabilities).max() < 0.05
    threshold = told(project, "packed")["threshold"]
    if format_name != "gguf":
        config = AutoConfig.from_pretrained(folder)
        assert (config.problem_type, config.threshold) == ("multi_label_classification", threshold)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "softmax" not in card
    assert "The probability of a label is the sigmoid of its logit." in card
    assert f"whose probability is at least {threshold:g}, and may have none" in card


def test_a_pipeline_of_transformers_gives_the_packed_model_s_probabilities(project: Path) -> None:
    """`problem_type` makes it take the sigmoid of each logit."""
    run(project, "kdqat", "export", "--student", "packed", "--format", "dense", "--out", "plain", "-q")
    texts, _ = dev_rows(project)
    classify = transformers.pipeline("text-classification", model=str(project / "plain/model"), top_k=None)
    for said, answer in zip(classify(texts[:8]), load(project / "packed")(texts[:8]), strict=True):
        found = {one["label"]: one["score"] for one in said}
        assert found == pytest.approx(answer["probabilities"], abs=0.05)


def test_a_gguf_file_says_what_its_logits_mean(project: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    student = load_classifier(str(project / "packed"))
    gguf_file.write(student.model, student.tokenizer, tmp_path, "TQ2_0")
    fields = gguf.GGUFReader(tmp_path / gguf_file.FILE).fields
    assert fields["kdqat.problem_type"].contents() == "multi_label_classification"
    assert fields["kdqat.threshold"].contents() == pytest.approx(told(project, "packed")["threshold"])
    assert fields["bert.classifier.output_labels"].contents() == LABELS
    card = (project / "packed/model/README.md").read_text(encoding="utf-8")
    assert "softmax" not in card
    assert "has each label whose probability is at least" in card


def test_the_report_takes_it(project: Path) -> None:
    run(project, "kdqat", "quantize", "--task", "moods", "--teacher", "teacher", "-q")
    told(project, "runs/moods/ternary", "--out", "metrics/moods/ternary.json")
    report = run(project, "kdqat", "report", "--json").stdout
    assert "micro_f1" in report


def test_the_analysis_takes_each_model_s_own_threshold(project: Path) -> None:
    """A copy of the student that says yes at 0.9 only; at 0.5 it would agree with the student entirely."""
    shutil.copytree(project / "student", project / "strict")
    place = project / "strict/model/config.json"
    place.write_text(json.dumps(json.loads(place.read_text(encoding="utf-8")) | {"threshold": 0.9}), encoding="utf-8")
    measures = ("--measure", "agreement", "--measure", "calibration", "--measure", "disagreement")
    command = ("analyze", "student", "strict", "--task", "moods", "--teacher", "teacher", *measures, "--out", "seen")
    run(project, "kdqat", *command)
    texts, gold = dev_rows(project)
    (project / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    served = {}
    for name in ("teacher", "student", "strict"):
        lines = run(project, "kdqat", "predict", name, "--file", "texts.txt").stdout.splitlines()
        served[name] = np.array([[label in json.loads(line)["labels"] for label in LABELS] for line in lines])
    assert (served["strict"] != served["student"]).mean() > 0.02
    rows = table(project, "agreement")
    found = {(row["model"], row["statistic"]): float(row["value"]) for row in rows}
    for name, answers in served.items():
        assert found[name, "equal answers"] == pytest.approx((answers == served["teacher"]).mean(), abs=0.012)
        assert found[name, "right answers"] == pytest.approx((answers == gold).mean(), abs=0.012)
    assert found["teacher", "equal answers"] == 1
    assert found["student", "KL divergence"] == found["strict", "KL divergence"] > 0
    bins = [row for row in table(project, "calibration") if row["model"] == "strict"]
    assert sum(int(row["rows"]) * float(row["right"]) for row in bins) == pytest.approx(
        180 * found["strict", "right answers"]
    )
    assert any(float(row["to"]) <= 0.5 for row in bins), "of a label between 0.5 and 0.9 the answer is no"
    for row in table(project, "disagreement"):
        if row["model"] == "strict":
            number = int(row["row"])
            assert row["label"] == "|".join(np.array(LABELS)[gold[number]])
            assert row["teacher"] == "|".join(np.array(LABELS)[served["teacher"][number]])
            assert row["answer"] != row["teacher"]


def table(project: Path, name: str) -> list[dict[str, str]]:
    with (project / f"seen/tables/{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_single_label_and_multi_label_models_are_distinguished(project: Path, tiny_task: Path, tmp_path: Path) -> None:
    single = f"{tiny_task}/tiny.yaml"
    text = (tiny_task / "tiny.yaml").read_text(encoding="utf-8").replace("[sad, glad]", "[glad, sad, long]")
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    shutil.copy(tiny_task / "dev.tsv", tmp_path)
    done = run(project, "kdqat", "evaluate", "teacher", "--task", f"{tmp_path}/tiny.yaml", code=2)
    assert "gives every label a probability of its own (multi-label), but task tiny wants one answer per row" in (
        " ".join(done.stderr.split())
    )
    run(project, "kdqat", "finetune-teacher", "--task", single, "--encoder", "teacher", "--epochs", "1", "--out", "one",
        "-q")  # fmt: skip
    done = run(project, "kdqat", "distill", "--task", "moods", "--teacher", "one", code=2)
    assert "gives one answer per row, but task moods wants any number of labels" in " ".join(done.stderr.split())


def test_the_same_command_again_needs_no_force(project: Path) -> None:
    run(project, "kdqat", "quantize", "--task", "moods", "--teacher", "teacher", "--out", "again", "-q")
    run(project, "kdqat", "quantize", "--task", "moods", "--teacher", "teacher", "--out", "again", "-q")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"is": ["glad", "merry"]}, "the label ['glad', 'merry'] in the column 'is' is neither a list of labels"),
        ({"is": "glad||sad"}, "is neither a list of labels nor labels with | between them; the labels are glad, sad"),
        ({"is": None}, "the column 'is' is empty or missing"),
        ({"is": 0}, "is neither a list of labels"),
    ],
)
def test_wrong_labels_are_named_with_their_place(
    project: Path, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    write_task(tmp_path / "tasks")
    with (tmp_path / "tasks/dev.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sentence": "a day", "is": ["glad"]} | changed) + "\n")
    done = run(tmp_path, "kdqat", "evaluate", str(project / "student"), "--task", "moods", code=3)
    told_so = " ".join(done.stderr.split())
    assert "dev.jsonl, line 61: " in told_so
    assert sentence in told_so


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"metric: micro_f1": "metric: matthews"}, "metric: matthews needs one label per row"),
        ({"also: [macro_f1, accuracy]": "also: [f1]"}, "metric: f1 needs one label per row"),
        ({"multi_label: true": "multi_label: false"}, "metric: micro_f1 is for multi_label"),
        ({"[glad, sad, long]": "[glad, sad|sorry]"}, "labels: sad|sorry has a vertical bar"),
        ({"labels: [glad, sad, long]\n": "range: [0, 1]\n"}, "multi_label: labels must be given"),
    ],
)
def test_faults_of_a_task_file(tmp_path: Path, changes: dict[str, str], fault: str) -> None:
    write_task(tmp_path / "tasks")
    text = TASK
    for old, new in changes.items():
        text = text.replace(old, new)
    (tmp_path / "tasks/moods.yaml").write_text(text, encoding="utf-8")
    done = run(tmp_path, "kdqat", "validate", code=2)
    assert fault in " ".join((done.stdout + done.stderr).split())
