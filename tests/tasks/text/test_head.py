"""The meaning of a classifier's outputs: the order of the task, and ambiguous configurations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.tasks.task import label_config
from kdqat_cli.tasks.text.head import align_labels, check_outputs
from tests.stages.classifiers import THREE, logits, name_labels, task_with


class TestAlignLabels:
    """The rows of the head are matched by the names of labels, never by their index."""

    def test_rows_are_permuted_by_name(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        name_labels(model, ["contradiction", "entailment", "neutral"])
        before = logits(model, batch)
        align_labels(model, task_with(THREE), "The teacher")
        assert torch.equal(logits(model, batch), before[:, [1, 2, 0]])
        assert model.config.id2label == dict(enumerate(THREE))
        assert model.config.label2id == {label: index for index, label in enumerate(THREE)}

    def test_aligning_again_does_nothing(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        name_labels(model, ["neutral", "contradiction", "entailment"])
        align_labels(model, task_with(THREE), "The teacher")
        once = logits(model, batch)
        align_labels(model, task_with(THREE), "The teacher")
        assert torch.equal(logits(model, batch), once)

    def test_the_case_of_a_name_is_ignored(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        name_labels(model, ["NEUTRAL", "Entailment", "contradiction"])
        before = logits(model, batch)
        align_labels(model, task_with(THREE), "The teacher")
        assert torch.equal(logits(model, batch), before[:, [1, 0, 2]])
        assert model.config.id2label == dict(enumerate(THREE))

    def test_spaces_and_the_form_of_unicode_are_ignored(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        name_labels(model, [" neutral", "cafe\u0301 ", "contradiction"])
        before = logits(model, batch)
        align_labels(model, task_with(["caf\u00e9", "neutral", "contradiction"]), "The teacher")
        assert torch.equal(logits(model, batch), before[:, [1, 0, 2]])

    def test_the_case_matters_if_labels_differ_only_in_it(
        self, model: PreTrainedModel, batch: dict[str, Tensor]
    ) -> None:
        name_labels(model, ["no", "No", "yes"])
        before = logits(model, batch)
        align_labels(model, task_with(["No", "no", "yes"]), "The teacher")
        assert torch.equal(logits(model, batch), before[:, [1, 0, 2]])
        name_labels(model, ["NO", "No", "yes"])
        with pytest.raises(ConfigError, match="has the labels NO, No, yes"):
            align_labels(model, task_with(["No", "no", "yes"]), "The teacher")

    def test_default_names_keep_the_order(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
        before = logits(model, batch)
        align_labels(model, task_with(THREE), "The teacher")
        assert torch.equal(logits(model, batch), before)
        assert model.config.id2label == dict(enumerate(THREE))

    def test_a_head_without_bias(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
        model.classifier.bias = None
        name_labels(model, ["neutral", "entailment", "contradiction"])
        before = logits(model, batch)
        align_labels(model, task_with(THREE), "The teacher")
        assert torch.equal(logits(model, batch), before[:, [1, 0, 2]])

    def test_other_names_are_refused(self, model: PreTrainedModel) -> None:
        name_labels(model, ["entailment", "neutral", "nonsense"])
        with pytest.raises(ConfigError, match=r"The teacher x has the labels .*nonsense, but task tiny has") as caught:
            align_labels(model, task_with(THREE), "The teacher x")
        assert caught.value.exit_code == 2
        assert caught.value.fix is not None
        assert caught.value.fix.startswith(
            'the task\'s names in "id2label" of its config.json, if only the names differ'
        )
        assert caught.value.fix.endswith("kdqat finetune-teacher --task tiny")

    def test_a_name_that_occurs_twice_is_refused(self, model: PreTrainedModel) -> None:
        name_labels(model, ["entailment", "neutral", "neutral"])
        with pytest.raises(ConfigError, match="has the labels"):
            align_labels(model, task_with(THREE), "The teacher")

    @pytest.mark.parametrize("labels", [["yes", "no"], None, ["a", "b", "c", "d"]])
    def test_a_different_number_of_labels_is_refused(self, model: PreTrainedModel, labels: list[str] | None) -> None:
        count = len(labels or "1")
        with pytest.raises(ConfigError, match=f"has 3 labels, but task tiny has {count}") as caught:
            align_labels(model, task_with(labels), "The teacher")
        assert caught.value.exit_code == 2

    def test_the_output_of_a_regression_is_not_changed(self, tiny_encoder: Path, batch: dict[str, Tensor]) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1).eval()
        before = logits(model, batch)
        align_labels(model, task_with(None), "The teacher")
        assert torch.equal(logits(model, batch), before)
        assert model.config.problem_type == "regression"


def test_label_config_of_a_task() -> None:
    assert label_config(task_with(["no", "yes"])) == {
        "num_labels": 2,
        "id2label": {0: "no", 1: "yes"},
        "label2id": {"no": 0, "yes": 1},
        "problem_type": "single_label_classification",
    }
    assert label_config(task_with(None)) == {"num_labels": 1, "problem_type": "regression"}


def config(**values: Any) -> BertConfig:
    return BertConfig(vocab_size=8, hidden_size=4, num_attention_heads=1, intermediate_size=4, **values)


class TestCheckOutputs:
    """A configuration must define its outputs without ambiguity."""

    def test_one_output_is_a_number(self) -> None:
        one = config(num_labels=1)
        check_outputs(one, "The model x")
        assert one.problem_type == "regression"

    def test_several_outputs_are_classes(self) -> None:
        three = config(num_labels=3)
        check_outputs(three, "The model x")
        assert three.problem_type == "single_label_classification"
        assert three.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}

    def test_labels_that_do_not_exclude_each_other_have_a_threshold(self) -> None:
        several = config(num_labels=3, problem_type="multi_label_classification")
        check_outputs(several, "The model x")
        assert several.problem_type == "multi_label_classification"
        assert several.threshold == 0.5
        several.threshold = 0.2
        check_outputs(several, "The model x")
        assert several.threshold == 0.2

    @pytest.mark.parametrize("threshold", [0.0, 1.0, 1, "0.5", float("nan")])
    def test_an_invalid_threshold_is_refused(self, threshold: object) -> None:
        several = config(num_labels=3, problem_type="multi_label_classification", threshold=threshold)
        with pytest.raises(
            MissingInputError, match=r"The model x has the threshold .*, which is not a number between 0"
        ):
            check_outputs(several, "The model x")

    def test_several_labels_need_several_outputs(self) -> None:
        with pytest.raises(ConfigError, match="multi_label_classification, but 1 output"):
            check_outputs(config(num_labels=1, problem_type="multi_label_classification"), "The model x")

    def test_two_numbers_are_refused(self) -> None:
        two = config(num_labels=2, problem_type="regression")
        with pytest.raises(ConfigError, match="The model x has the problem_type regression, but 2 outputs"):
            check_outputs(two, "The model x")

    @pytest.mark.parametrize(
        ("id2label", "label2id"),
        [
            ({"0": "up", "1": "down"}, {"up": 0, "down": 1}),
            ({"1": "down", "0": "up"}, {"down": 1, "up": 0}),
            ({0: "up", 1: "down"}, None),
            ({0: "up", 1: "down"}, {"LABEL_0": 0, "LABEL_1": 1}),  # only id2label was set
        ],
    )
    def test_labels_that_are_clear(self, id2label: Any, label2id: Any) -> None:
        clear = config(id2label=id2label, label2id=label2id)
        check_outputs(clear, "The model x")
        assert clear.id2label == {0: "up", 1: "down"}
        assert clear.label2id == {"up": 0, "down": 1}

    def test_numbers_become_names(self) -> None:
        numbered = config(num_labels=2)
        numbered.id2label = {0: 4, 1: 5}
        numbered.label2id = {"4": 0, "5": 1}
        check_outputs(numbered, "The model x")
        assert numbered.id2label == {0: "4", 1: "5"}

    @pytest.mark.parametrize(
        ("id2label", "label2id", "sentence"),
        [
            (
                {0: "up", 2: "down"},
                {"up": 0, "down": 2},
                r"names the outputs 0, 2 \(id2label\), but has the outputs 0 to 1",
            ),
            ({0: "up", 1: "up"}, {"up": 0}, "has the label 'up' twice"),
            ({0: "up", 1: "down"}, {"up": 1, "down": 0}, "contradict each other"),
            ({0: "LABEL_0", 1: "LABEL_1"}, {"up": 0, "down": 1}, "contradict each other"),
            ({0: "up", 1: None}, {"up": 0}, "has the label None"),
        ],
    )
    def test_labels_that_are_not_clear_are_refused(self, id2label: Any, label2id: Any, sentence: str) -> None:
        unclear = config(num_labels=2)
        unclear.id2label, unclear.label2id = id2label, label2id
        with pytest.raises(MissingInputError, match=f"The model x.*{sentence}"):
            check_outputs(unclear, "The model x")
