"""The meaning of a classifier's outputs: checks its configuration, and puts its outputs into a task's order.

The configuration of a multi-label classifier contains its `threshold` too (tasks/labels.py), so that every folder and
file with the model has it. A model in training has no threshold: each evaluation chooses one.
"""

from collections import Counter

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from kdqat_cli.errors import ConfigError, MissingInputError, shown
from kdqat_cli.networks.modules import classifier_of
from kdqat_cli.tasks.labels import THRESHOLD, plain
from kdqat_cli.tasks.task import LabelledTask, label_config

_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def check_outputs(config: PreTrainedConfig, name: str) -> None:
    """Checks that a classifier's configuration defines its outputs without ambiguity.

    One output is a number (regression). Several outputs are classes that exclude each other, unless `problem_type` says
    that they do not. The function sets `problem_type` and, if labels do not exclude each other, the threshold.

    Args:
        config: the configuration; it is changed in place.
        name: the model's name in errors.

    Raises:
        ConfigError: the number of outputs does not fit `problem_type`.
        MissingInputError: the names of the labels are incomplete or contradict each other.
    """
    one = config.num_labels == 1
    if config.problem_type not in (None, *_PROBLEMS):
        raise ConfigError(
            f"{name} has the problem_type {shown(config.problem_type)}, which kdqat does not know.",
            f'"problem_type" in its config.json: {", ".join(_PROBLEMS)}',
        )
    if config.problem_type is not None and one != (config.problem_type == "regression"):
        raise ConfigError(
            f"{name} has the problem_type {config.problem_type}, but {_count(config.num_labels, 'output')}.",
            '"problem_type" in its config.json: regression for 1 output, single_label_classification for more',
        )
    config.problem_type = config.problem_type or ("regression" if one else "single_label_classification")
    if not one:
        _check_names(config, name)
    if several(config):
        _check_threshold(config, name)


def several(config: PreTrainedConfig) -> bool:
    """Whether a classifier gives each label a probability of its own."""
    return bool(config.problem_type == "multi_label_classification")


def threshold_of(config: PreTrainedConfig) -> float | None:
    """The threshold of a multi-label classifier; None: it has none yet, or it is not multi-label."""
    return getattr(config, "threshold", None) if several(config) else None


def _check_threshold(config: PreTrainedConfig, name: str) -> None:
    given = getattr(config, "threshold", None)
    config.threshold = THRESHOLD if given is None else given
    if type(config.threshold) is not float or not 0 < config.threshold < 1:
        raise MissingInputError(
            f"{name} has the threshold {shown(given)}, which is not a number between 0 and 1.",
            f'"threshold" in its config.json: {THRESHOLD}',
        )


def _check_names(config: PreTrainedConfig, name: str) -> None:
    """Makes `id2label` name every output once, as a string."""
    count = config.num_labels
    fix = f'"id2label" in its config.json, with a name of its own for each of the outputs 0 to {count - 1}'
    named = config.id2label
    if sorted(named) != list(range(count)):
        numbers = ", ".join(map(str, sorted(named)))
        raise MissingInputError(
            f"{name} names the outputs {numbers} (id2label), but has the outputs 0 to {count - 1}.", fix
        )
    if odd := [label for label in named.values() if type(label) not in (str, int)]:
        raise MissingInputError(f"{name} has the label {shown(odd[0])} (id2label), which is not a text.", fix)
    labels = [str(named[index]) for index in range(count)]
    if twice := [label for label, times in Counter(labels).items() if times > 1]:
        raise MissingInputError(f"{name} has the label {shown(twice[0])} twice (id2label).", fix)
    own = {label: index for index, label in enumerate(labels)}
    told = config.label2id or {}
    if not isinstance(told, dict):
        raise MissingInputError(f"{name} has the label2id {shown(told)}, which is not a mapping.", fix)
    inverse = {str(label): index for label, index in told.items()}
    unnamed = {
        f"LABEL_{index}": index for index in range(len(inverse))
    }  # what transformers writes if the model does not set it
    if inverse not in (own, unnamed):
        raise MissingInputError(f"{name}: id2label and label2id in its config.json contradict each other.", fix)
    config.id2label = dict(enumerate(labels))
    config.label2id = own


def align_labels(model: PreTrainedModel, task: LabelledTask, name: str) -> None:
    """Reorders the rows of a classifier's head, by the names of its labels, so that they are in the task's order.

    Labels with default names (LABEL_0, …) are assumed to be in the task's order. Case, outer spaces and the Unicode
    form are ignored, unless two labels differ only in them.

    Args:
        model: the classifier; it is changed in place.
        task: the task.
        name: the model's name in errors.

    Raises:
        ConfigError: the number of labels or their names differ, or only one of model and task is multi-label.
    """
    fix = f"kdqat finetune-teacher --task {task.name}"
    if several(model.config) != task.multi_label:
        gives = "one answer per row" if task.multi_label else "every label a probability of its own (multi-label)"
        wants = "any number of labels (multi_label)" if task.multi_label else "one answer per row"
        raise ConfigError(f"{name} gives {gives}, but task {task.name} wants {wants}.", fix)
    if model.config.num_labels != task.num_labels:
        raise ConfigError(
            f"{name} has {model.config.num_labels} labels, but task {task.name} has {task.num_labels}.", fix
        )
    if not task.regression:
        wanted = task.labels or []
        given = [str(model.config.id2label[index]) for index in range(task.num_labels)]
        if not _says_nothing(given):
            rows = _rows(given, wanted) or _rows(*([plain(name).casefold() for name in x] for x in (given, wanted)))
            if rows is None:
                raise ConfigError(
                    f"{name} has the labels {', '.join(given)}, but task {task.name} has {', '.join(wanted)}.",
                    f'the task\'s names in "id2label" of its config.json, if only the names differ; else {fix}',
                )
            _reorder(classifier_of(model), rows)
    for key, value in label_config(task).items():
        setattr(model.config, key, value)


def _says_nothing(labels: list[str]) -> bool:
    return [label.casefold() for label in labels] == [f"label_{index}" for index in range(len(labels))]


def _rows(given: list[str], wanted: list[str]) -> list[int] | None:
    """For each wanted label, its index among the given ones; None: the labels differ, or one occurs twice."""
    if sorted(given) != sorted(wanted) or len(set(given)) < len(given):
        return None
    return [given.index(label) for label in wanted]


@torch.no_grad()
def _reorder(head: nn.Linear, rows: list[int]) -> None:
    head.weight.copy_(head.weight[rows].clone())
    if head.bias is not None:
        head.bias.copy_(head.bias[rows].clone())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
