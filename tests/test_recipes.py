"""The packaged recipes: `paper` has the values of the specification, and `clean` has not changed."""

from typing import Any

import pytest

from kdqat_cli.config import Params
from kdqat_cli.params import load_recipe, recipe_names, resolve
from kdqat_cli.tasks.registry import load_task, load_text_task, task_names

# Spec, section 5: rows of a step, tokens, and steps between evaluations.
GLUE = {
    "cola": (16, 64, 50),
    "mnli": (32, 128, 8000),
    "mrpc": (32, 128, 50),
    "qnli": (32, 128, 1000),
    "qqp": (32, 128, 1000),
    "rte": (32, 128, 20),
    "sst2": (32, 64, 100),
    "stsb": (32, 128, 100),
}
TRAINING: dict[str, Any] = {
    "epochs": 3,
    "max_steps": None,
    "limit": None,
    "learning_rate": 5e-5,
    "schedule": "linear",
    "warmup": 0.1,
    "batch_size": 32,
    "max_length": None,
    "keeps_more": "longer",
    "padding": "longest",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "loss_per": "answer",
    "precision": "fp32",
    "eval_every": None,
    "eval_before_end": 0,
    "keep_best": "score",
}
TEACHER = TRAINING | {"model": None}
# Fields that both recipes leave at their defaults.
OTHER = {"bits": 4, "bucket": 256, "rounding": "nearest", "gradient": "plain", "start": "quantiles"}
OTHER |= {"allocation": "equal", "vectors": False, "exempt": []}
LOGITS = {
    "targets": "references",
    "weak_teacher": "refused",
    "method": "qat",
    "layers": None,
    "logits": 1.0,
    "logits_temperature": 1.0,
    "logits_mean": "rows",
}
CLEAN = {
    "teacher": TEACHER,
    "student": TRAINING | {"learning_rate": 1e-4},
    "quantization": {
        "weights": "ternary",
        "weight_clip": 2.5,
        "activations": "int8",
        "activation_clip": None,
        "activation_scale": "token",
        **OTHER,
    },
    "distillation": {
        "loss": "map+output",
        "mix": "SM1",
        "beta": 0.5,
        "temperature": 1.0,
        "map_floor": None,
        "score_cutoff": None,
        "labels": 0.0,
        "hidden_layers": "all",
        "padding": "ignored",
        **LOGITS,
    },
    "network": {},
}
PAPER_STUDENT = {
    "epochs": 3,
    "max_steps": None,
    "limit": None,
    "learning_rate": 2e-5,
    "schedule": "linear",
    "warmup": 0.1,
    "keeps_more": "first",
    "padding": "max_length",
    "optimizer": "bert-adam",
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "loss_per": "answer",
    "precision": "fp32",
    "eval_before_end": 1,
}
ACCURACY = ("mrpc", "qqp")  # the public code keeps the best step by accuracy in these tasks, otherwise by the score


def test_packaged_recipes() -> None:
    assert recipe_names() == ["clean", "paper", "polino", "polino-paper", "smoke"]


@pytest.mark.parametrize("task", GLUE)
def test_paper_agrees_with_the_specification(task: str) -> None:
    settings = resolve(task, Params(), recipe="paper")
    batch_size, max_length, eval_every = GLUE[task]
    own: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "eval_every": eval_every}
    own["keep_best"] = "accuracy" if task in ACCURACY else "score"
    assert settings.student.model_dump() == PAPER_STUDENT | own
    assert settings.quantization.model_dump() == {
        "weights": "ternary",
        "weight_clip": 2.5,
        "activations": "int8",
        "activation_clip": 2.5,
        "activation_scale": "batch",
        **OTHER,
    }
    assert settings.distillation.model_dump() == CLEAN["distillation"] | {
        "padding": "counted",
        **LOGITS,
        "map_floor": 1e-8,
        "score_cutoff": -100.0,
    }
    assert settings.teacher.model_dump() == TEACHER
    assert max_length == load_text_task(task).max_length, "the teacher's rows are cut like the student's"


def test_clean_has_not_changed() -> None:
    assert load_recipe("clean").model_dump(exclude={"kinds", "tasks"}) == CLEAN
    for task in task_names():
        assert resolve(task, Params()).model_dump() == CLEAN, task


@pytest.mark.parametrize("name", recipe_names())
def test_images_have_no_attention_and_no_tokens(name: str) -> None:
    settings = resolve("digits", Params(), name, kind="image")
    assert settings.distillation.loss == "logits"
    assert (settings.teacher.max_length, settings.student.max_length) == (None, None)
    assert settings.student.learning_rate >= 1e-3


def test_polino_paper_agrees_with_the_public_code_on_images_and_translation() -> None:
    image = resolve("cifar10", Params(), "polino-paper", kind="image")
    assert image.network == {"relu_logits": True}
    assert (image.student.optimizer, image.student.learning_rate, image.student.epochs) == ("sgd", 1e-3, 200)
    assert (image.distillation.logits_temperature, image.distillation.logits_mean) == (2.0, "classes")
    text = resolve("multi30k", Params(), "polino-paper", kind="translation")
    assert text.network == {}
    for training in (text.teacher, text.student):
        assert (training.optimizer, training.learning_rate, training.gradient_clip) == ("plain-sgd", 1.0, 5.0)
        assert (training.schedule, training.epochs, training.batch_size, training.loss_per) == ("decay", 15, 64, "row")
    assert (text.distillation.logits_temperature, text.distillation.logits_mean) == (1.0, "rows")
    assert (text.distillation.logits, text.distillation.labels) == (0.7, 0.3)
    free = resolve("cifar10", Params(), "polino-paper", assignments=["network.relu_logits=null"], kind="image")
    assert free.network == {}, "null: the network's own value"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_resolves_for_every_task(name: str) -> None:
    assert load_recipe(name).tasks.keys() <= set(task_names()), "every task in a recipe exists"
    for task in task_names():
        resolve(task, Params(), recipe=name, kind=load_task(task).kind)
