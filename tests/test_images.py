"""The chain of commands on images (scikit-learn's digits): teacher, students by each method, evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from tests.commands import run

pytestmark = pytest.mark.pipeline

STUDENT = ("distill", "--task", "digits", "--network", "conv-digits-small", "--recipe", "polino")
SHORT = ("--epochs", "2")


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(folder, "kdqat", *arguments, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, and a student of it in full precision."""
    folder = tmp_path_factory.mktemp("digits")
    run(folder, "kdqat", "finetune-teacher", "--task", "digits", "--epochs", "3")
    run(folder, "kdqat", *STUDENT, "--weights", "fp32", "--epochs", "4", "--out", "full")
    return folder


def test_a_student_of_another_network_by_each_method(digits: Path) -> None:
    teacher = told(digits, "evaluate", "runs/digits/teacher")
    assert teacher["score"] > 85
    assert teacher["test_rows"] == 359
    full = told(digits, "evaluate", "full")
    scores = {}
    for method, options in {
        "qd": (*STUDENT, "--method", "qd", "--epochs", "4"),
        "pm": (*STUDENT, "--method", "pm", "--epochs", "4"),
        "dq": ("distill", "--task", "digits", "--recipe", "polino", "--teacher", "full", "--method", "dq", "--weights",
               "points", *SHORT),
    }.items():  # fmt: skip
        made = told(digits, *options)
        scored = told(digits, "evaluate", made["folder"])
        assert scored["score"] == made["score"]
        assert scored["parameters"] == full["parameters"]
        weights = load_file(digits / made["folder"] / "model/model.safetensors")
        assert not any("parametrizations" in name or "points" in name for name in weights)
        for name, weight in weights.items():
            if weight.dim() > 1:
                buckets = [part.unique().numel() for part in weight.flatten().split(256)]
                assert max(buckets) <= 16, f"{name}: four bits"
        scores[method] = scored["score"]
    assert min(scores.values()) > full["score"] - 15


def test_a_packed_student_is_small_and_scores_the_same(digits: Path) -> None:
    made = told(digits, *STUDENT, "--method", "pm", *SHORT, "--out", "packable")
    packed = told(digits, "export", "--student", "packable", "--out", "packed")
    scored = told(digits, "evaluate", packed["folder"])
    assert scored["score"] == made["score"]
    assert scored["bytes"] == packed["bytes"] == (digits / "packed/model/kdqat.safetensors").stat().st_size
    assert packed["bytes"] < (digits / "packable/model/model.safetensors").stat().st_size
    header = ModelCard.load(digits / "packed/model/README.md", ignore_metadata_errors=False).data
    assert header.pipeline_tag == "image-classification"
    assert header.eval_results[0].metric_value == pytest.approx(made["score"], abs=1e-4)
    refused = run(digits, "kdqat", "export", "--student", "packable", "--format", "dense", code=2).stderr
    assert "text" in refused


def test_a_second_run_gives_the_same_bits(digits: Path) -> None:
    folders = [told(digits, *STUDENT, *SHORT, "--out", name)["folder"] for name in ("one", "two")]
    one, two = ((digits / folder / "model/codes.safetensors").read_bytes() for folder in folders)
    assert one == two


def test_the_scores_of_a_stochastic_student_are_those_of_the_saved_student(digits: Path) -> None:
    draws = ("--bits", "1", "--set", "quantization.rounding=stochastic", "--epochs", "3", "--out", "drawn")
    made = told(digits, *STUDENT, *draws)
    rows = [line.split(",") for line in (digits / "drawn/history.csv").read_text(encoding="utf-8").splitlines()]
    scores = [float(row[rows[0].index("score")]) for row in rows[1:] if row[rows[0].index("score")]]
    assert made["score"] == max(scores) == told(digits, "evaluate", "drawn")["score"]


def test_shared_points_and_their_number_of_bits(digits: Path) -> None:
    """The rule of the public code does not keep the mean number of bits per weight; the budget does."""
    learn = ("distill", "--task", "digits", "--recipe", "polino", "--teacher", "full", "--method", "dq", "--weights",
             "points", "--bits", "2", *SHORT)  # fmt: skip
    bits = {}
    for rule in ("equal", "gradient", "budget"):
        run(digits, "kdqat", *learn, "--set", f"quantization.allocation={rule}", "--out", rule)
        bits[rule] = json.loads((digits / rule / "run.json").read_text(encoding="utf-8"))["level_bits"]
    assert bits["equal"] == 2
    assert abs(bits["gradient"] - 2) > 0.05
    assert 1.5 < bits["budget"] <= 2


def test_biases_and_normalisation_on_request_and_names_that_are_exempt(digits: Path) -> None:
    sets = ("--set", "quantization.vectors=true", "--set", "quantization.exempt=[first, '*.norm.bias']")
    made = told(digits, *STUDENT, *SHORT, *sets, "--out", "vectors")
    codes = {name.rpartition(".")[0] for name in load_file(digits / made["folder"] / "model/codes.safetensors")}
    assert {"output", "output.bias", "dense.0.norm", "convolutions.1.conv"} <= codes
    assert not any(name.startswith("convolutions.0.conv") or name.endswith("norm.bias") for name in codes)
    assert told(digits, "evaluate", "vectors")["score"] == made["score"]
    said = run(digits, "kdqat", *STUDENT, "--set", "quantization.exempt=[second]", code=2).stderr
    assert "no parameter of the network is called second" in " ".join(said.split())


PETS = """\
name: {name}
kind: image
title: Bright and dark
files: {{train: [{train}], test: [{test}]}}
labels: [bright, dark]
metric: accuracy
image: [3, 8, 8]
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
network: conv-digits-small
"""


def test_a_users_task_from_a_folder_per_class_and_from_a_list_of_paths(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    listed: dict[str, list[str]] = {"train": ["path,label"], "test": ["path,label"]}
    for split, rows in (("train", 60), ("test", 20)):
        for index in range(rows):
            label, darkest = (("bright", 120), ("dark", 0))[draw.integers(2)]
            path = tmp_path / split / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(darkest, darkest + 130, (8, 8, 3), dtype=np.uint8)).save(path)
            listed[split].append(f"{path.relative_to(tmp_path)},{label}")
    for split, lines in listed.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "folders.yaml").write_text(PETS.format(name="folders", train="train", test="test"))
    (tmp_path / "listed.yaml").write_text(PETS.format(name="listed", train="train.csv", test="test.csv"))
    for name in ("folders", "listed"):
        short = ("--task", f"{name}.yaml", *SHORT, "--batch-size", "8", "--learning-rate", "1e-2")
        told(tmp_path, "finetune-teacher", *short)
        scored = told(tmp_path, "evaluate", f"runs/{name}/teacher")
        assert (scored["rows"], scored["test_rows"]) == (6, 20)
        assert scored["test_score"] > 80
        made = told(tmp_path, "distill", *short, "--recipe", "polino", "--bits", "4")
        assert told(tmp_path, "evaluate", made["folder"])["score"] == made["score"]
    packed = told(tmp_path, "export", "--student", made["folder"], "--out", "packed")["folder"]
    pairs = [line.split(",") for line in listed["test"][1:]]
    (tmp_path / "lines.txt").write_text("\n".join([path for path, _ in pairs] + ["gone.png"]) + "\n")
    for model in (made["folder"], packed):
        done = run(tmp_path, "kdqat", "predict", model, "--file", "lines.txt", code=3)
        *answers, last = map(json.loads, done.stdout.splitlines())
        assert [answer["text"] for answer in answers] == [path for path, _ in pairs]
        right = sum(answer["label"] == label for answer, (_, label) in zip(answers, pairs, strict=True))
        assert 100 * right / len(pairs) == pytest.approx(told(tmp_path, "evaluate", model)["test_score"])
        assert all(sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5) for answer in answers)
        assert last == {"text": "gone.png", "error": "There is no picture gone.png."}


def test_a_field_of_the_network_is_recorded_and_not_silently_changed(digits: Path) -> None:
    relu = ("--set", "network.relu_logits=true")
    made = told(digits, *STUDENT, *SHORT, *relu)
    assert "relu_logits" in made["folder"]
    folder = digits / made["folder"] / "model"
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["relu_logits"] is True
    settings = json.loads((folder / "kdqat.json").read_text(encoding="utf-8"))["settings"]
    assert settings["network"] == [["relu_logits", True]]
    said = run(digits, "kdqat", *STUDENT, *SHORT, "--out", made["folder"], code=2).stderr
    assert "has a result of other settings: settings.network is" in " ".join(said.split())
    copied = ("distill", "--task", "digits", "--recipe", "polino", *relu)
    said = run(digits, "kdqat", *copied, code=2).stderr
    assert "network.relu_logits is True, but the student is a copy of its teacher, with False" in " ".join(said.split())
    said = run(digits, "kdqat", "finetune-teacher", "--task", "movie", *relu, code=2).stderr
    assert "network.relu_logits has no meaning for task movie" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("finetune-teacher", "--task", "digits", "--encoder", "embedded"), "--encoder has no meaning for task digits"),
        (("finetune-teacher", "--task", "digits", "--network", "conv"), "There is no network 'conv' that reads rows"),
        (
            ("finetune-teacher", "--task", "movie", "--network", "conv-digits"),
            "--network has no meaning for task",
        ),
        (("finetune-teacher", "--task", "digits", "--max-length", "9"), "teacher.max_length has no meaning for"),
        (
            ("finetune-teacher", "--task", "digits", "--devices", "2", "--out", "shared"),
            "The network has batch normalisation",
        ),
        (("evaluate", "full", "--max-length", "9"), "--max-length has no meaning for task digits"),
        (("evaluate", "full", "--task", "movie"), "reads rows of the kind image, but task movie has rows of the kind"),
        (
            ("evaluate", "full", "--task", "cifar10"),
            "has the labels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, but task",
        ),
        (("predict", "full", "a.png", "b.png"), "The text is a pair, but the model was trained on single texts"),
        ((*STUDENT, "--loss", "map"), "The loss map compares the layers of an encoder"),
        ((*STUDENT, "--set", "distillation.targets=teacher"), "distillation.targets: teacher needs translations"),
        ((*STUDENT, "--method", "dq"), "so it needs --weights points. try: --weights points"),
        ((*STUDENT, "--method", "dq", "--weights", "points"), "keeps the weights of its teacher"),
        ((*STUDENT, "--weights", "fp32", "--method", "pm"), "quantises weights after the training"),
        ((*STUDENT, "--weights", "fp32", "--activations", "int8"), "fp32 weights need fp32 activations"),
        (
            (*STUDENT, "--set", "quantization.rounding=stochastic", "--weights", "int8"),
            "rounding has no meaning for",
        ),
        (("quantize", "--task", "digits", "--bits", "3"), "--bits has no meaning for --weights ternary"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: tuple[str, ...], said: str, digits: Path) -> None:
    found = run(digits, "kdqat", *arguments, code=2).stderr
    assert said in " ".join(found.split())
    assert "Traceback" not in found
