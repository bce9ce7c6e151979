"""The objective of a training, with a tiny teacher and its ternary copy."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.config import PrecisionName
from kdqat_cli.distillation.losses import LOSSES, DistillationLoss
from kdqat_cli.distillation.objective import OnLabels, OnTeacher, gold_loss
from kdqat_cli.networks.captures import capture
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.tasks.translation.rows import _batch
from tests.recipes import distillation, quantization

QUANTIZATION = quantization()
LABELS = torch.tensor([0, 1, 2, 2, 1])


def objective(
    student: PreTrainedModel, teacher: PreTrainedModel, name: str, precision: PrecisionName = "fp32", **changes: Any
) -> OnTeacher:
    return OnTeacher(student, teacher, DistillationLoss(distillation(name, **changes)), precision)


def labelled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of training rows."""
    return {**batch, "labels": LABELS, "counted": batch["attention_mask"]}


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.fixture
def teacher(model: PreTrainedModel) -> PreTrainedModel:
    out = copy.deepcopy(model)
    use_kdqat_attention(out)
    return out


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_batch_is_the_sum_of_its_terms(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], name: str
) -> None:
    quantize_model(model, QUANTIZATION)
    loss = DistillationLoss(distillation(name))
    with torch.no_grad(), capture(teacher, loss.captures) as taught, capture(model, loss.captures) as learnt:
        answers = model(**batch).logits, teacher(**batch).logits
    expected = sum(value.item() for value in loss.terms(learnt, taught, *answers, batch["attention_mask"]).values())
    value = total(objective(model, teacher.train(), name).terms(model, labelled(batch)))
    assert value.item() == pytest.approx(expected, rel=1e-5), "the teacher is in eval mode, whatever its mode was"
    value.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad.any()


def test_a_copy_of_the_teacher_has_nothing_to_learn(teacher: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    student = copy.deepcopy(teacher)
    found = objective(student, teacher, "map+output").terms(student, labelled(batch))
    with torch.no_grad():
        chances = teacher(**batch).logits.double().softmax(-1)
    entropy = -(chances * chances.log()).sum(-1).mean().item()
    terms = {name: value.item() for name, value in found.items()}
    assert terms == pytest.approx({"logits": entropy, "hidden": 0, "map": 0, "output": 0}, rel=1e-6)


def test_the_labels_loss() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    assert gold_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2, rel=1e-6)
    assert gold_loss(torch.tensor([[1.0], [5.0]]), torch.tensor([2, 3])).item() == 2.5
    per_token = torch.stack([logits, logits.flip(0)])
    found = gold_loss(per_token, torch.tensor([[0, 1], [1, -100]])).item()
    assert found == pytest.approx(-(2 * np.log(0.6) + np.log(0.8)) / 3, rel=1e-6), "the mean over three tokens"


def test_labels_have_the_weight_of_the_settings(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    """A copy of the teacher can learn only from the labels."""
    use_kdqat_attention(model)
    inputs = labelled(batch)
    plain = objective(model, teacher, "map").terms(model, inputs)
    value = objective(model, teacher, "map", labels=0.25).terms(model, inputs)
    with torch.no_grad():
        gold = torch.nn.functional.cross_entropy(model(**batch).logits, LABELS)
    assert value.keys() - plain.keys() == {"labels"}
    assert (total(value) - total(plain)).item() == pytest.approx(0.25 * gold.item(), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_multiplies_in_bfloat16_and_compares_in_fp32(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], name: str
) -> None:
    quantize_model(model, QUANTIZATION)
    model.eval()  # without dropout, which would cause larger differences
    kinds: set[torch.dtype] = set()
    teacher.bert.encoder.layer[0].attention.self.query.register_forward_hook(
        lambda _module, _inputs, output: kinds.add(output.dtype)
    )
    values = {}
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16")
    for precision in precisions:
        kinds.clear()
        terms = objective(model, teacher, name, precision).terms(model, labelled(batch))
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert all(term.dtype == torch.float32 for term in terms.values())
        values[precision] = torch.stack([term.detach() for term in terms.values()])
    assert not torch.equal(values["bf16"], values["fp32"])
    torch.testing.assert_close(values["bf16"], values["fp32"], rtol=0.02, atol=0.01)


def test_a_mean_over_rows_sums_the_answers_of_each_row() -> None:
    """Like the public code of Polino et al. for translation: sums over words, divided by the number of sentences."""
    words = {"source_words": 9, "target_words": 11}
    student, teacher = (new_network("lstm-tiny", "translation", **words).double().eval() for _ in range(2))
    rows = [([2, 3, 4], [5, 6]), ([5], [7]), ([6, 7], [8, 9, 10, 4])]
    batch = _batch(rows)
    inputs = {name: batch[name] for name in ("source", "lengths", "target_in")}
    log_p, q = student(**inputs).logits.log_softmax(-1), teacher(**inputs).logits.softmax(-1)
    labels, real = batch["labels"], batch["counted"].bool()
    hard = -log_p[real].gather(-1, labels[real][:, None]).sum() / len(rows)
    soft = -(q * log_p)[real].sum() / len(rows)
    loss = DistillationLoss(distillation("logits", logits=0.7, labels=0.3))
    terms = OnTeacher(student, teacher, loss, "fp32", "row").terms(student, batch)
    torch.testing.assert_close(terms["labels"], 0.3 * hard)
    torch.testing.assert_close(terms["logits"], 0.7 * soft)
    taught = OnLabels(per="row")
    torch.testing.assert_close(taught.terms(student, batch)["labels"], hard)
    assert taught.counts(batch)["labels"] == len(rows)
    assert OnLabels().counts(batch)["labels"] == real.sum()


def test_evaluation_is_in_fp32_with_every_precision(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():  # before another step could change the precision of the model
        expected = model.eval()(**batch).logits
    loss: Any = total(OnLabels("bf16").terms(model, labelled(batch)))
    loss.backward()
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, expected)
