"""What the training loop adds up, on a tiny teacher and its ternary copy."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments

from kdqat_cli.config import PrecisionName
from kdqat_cli.distillation.losses import LOSSES, DistillationLoss
from kdqat_cli.networks.captures import capture
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.training.trainer import EncoderTrainer, gold_loss
from tests.recipes import distillation, quantization

QUANTIZATION = quantization()
LABELS = torch.tensor([0, 1, 2, 2, 1])


def trainer(
    folder: Path, student: PreTrainedModel, teacher: PreTrainedModel, name: str, precision: PrecisionName = "fp32"
) -> EncoderTrainer:
    return EncoderTrainer(
        model=student,
        args=TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True),
        score=lambda model: {"score": 0.0},
        precision=precision,
        teacher=teacher,
        loss=DistillationLoss(distillation(name)),
    )


@pytest.fixture
def teacher(model: PreTrainedModel) -> PreTrainedModel:
    out = copy.deepcopy(model)
    use_kdqat_attention(out)
    return out


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_batch_is_the_sum_of_its_terms(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], name: str, tmp_path: Path
) -> None:
    quantize_model(model, QUANTIZATION)
    loss = DistillationLoss(distillation(name))
    with torch.no_grad(), capture(teacher, loss.captures) as taught, capture(model, loss.captures) as learnt:
        answers = model(**batch).logits, teacher(**batch).logits
    expected = sum(value.item() for value in loss.terms(learnt, taught, *answers, batch["attention_mask"]).values())
    distiller = trainer(tmp_path, model, teacher.train(), name)
    value = distiller.compute_loss(model, {**batch, "labels": LABELS})
    assert isinstance(value, Tensor)
    assert value.item() == pytest.approx(expected, rel=1e-5), "the teacher in eval mode, whatever it was in before"
    value.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad.any()


def test_a_copy_of_the_teacher_has_nothing_to_learn(
    teacher: PreTrainedModel, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    student = copy.deepcopy(teacher)
    distiller = trainer(tmp_path, student, teacher, "map+output")
    distiller.compute_loss(student, {**batch, "labels": LABELS})
    logs: dict[str, float] = {"loss": 0.0}
    distiller.log(logs)
    with torch.no_grad():
        chances = teacher(**batch).logits.double().softmax(-1)
    entropy = -(chances * chances.log()).sum(-1).mean().item()
    terms = {key.removeprefix("loss_"): value for key, value in logs.items() if key.startswith("loss_")}
    assert terms == pytest.approx({"logits": entropy, "hidden": 0, "map": 0, "output": 0}, rel=1e-6)


def test_the_log_holds_each_term_s_mean_since_the_last(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    quantize_model(model, QUANTIZATION)
    distiller = trainer(tmp_path, model, teacher, "score")
    for steps in ([slice(0, 2), slice(2, 5)], [slice(1, 3)], []):
        totals = []
        for rows in steps:
            part = {key: values[rows] for key, values in batch.items()} | {"labels": LABELS[rows]}
            value = distiller.compute_loss(model, part)
            assert isinstance(value, Tensor)
            totals.append(value.item())
        logs: dict[str, float] = {"loss": 0.0}
        distiller.log(logs)
        terms = [value for key, value in logs.items() if key.startswith("loss_")]
        assert len(terms) == (3 if steps else 0), "logits, hidden, score"
        assert sum(terms) == pytest.approx(np.mean(totals) if steps else 0, rel=1e-5)


def test_the_labels_loss() -> None:
    logits = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    assert gold_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2, rel=1e-6)
    assert gold_loss(torch.tensor([[1.0], [5.0]]), torch.tensor([2, 3])).item() == 2.5


def test_labels_have_the_weight_that_the_settings_give_them(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    """A copy of the teacher has only the labels left to learn from."""
    use_kdqat_attention(model)
    distiller = trainer(tmp_path, model, teacher, "map")
    distiller.loss = DistillationLoss(distillation("map", labels=0.25))
    inputs = dict(batch)
    plain = trainer(tmp_path, model, teacher, "map").compute_loss(model, {**inputs, "labels": LABELS})
    value = distiller.compute_loss(model, {**inputs, "labels": LABELS})
    with torch.no_grad():
        gold = torch.nn.functional.cross_entropy(model(**inputs).logits, LABELS)
    assert isinstance(value, Tensor)
    assert isinstance(plain, Tensor)
    assert (value - plain).item() == pytest.approx(0.25 * gold.item(), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_multiplies_in_bfloat16_and_compares_in_fp32(
    model: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Tensor], name: str, tmp_path: Path
) -> None:
    quantize_model(model, QUANTIZATION)
    model.eval()  # no dropout, which would differ more
    kinds: set[torch.dtype] = set()
    teacher.bert.encoder.layer[0].attention.self.query.register_forward_hook(
        lambda _module, _inputs, output: kinds.add(output.dtype)
    )
    values = {}
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16")
    for precision in precisions:
        kinds.clear()
        distiller = trainer(tmp_path, model, teacher, name, precision)
        terms, _, _ = distiller._terms(model, {**batch, "labels": LABELS})
        assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert all(term.dtype == torch.float32 for term in terms.values())
        values[precision] = torch.stack([term.detach() for term in terms.values()])
    assert not torch.equal(values["bf16"], values["fp32"])
    torch.testing.assert_close(values["bf16"], values["fp32"], rtol=0.02, atol=0.01)


def test_whatever_the_precision_evaluation_is_in_fp32(
    model: PreTrainedModel, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    with torch.no_grad():  # before any trainer has had the model, and could have left it in another precision
        expected = model.eval()(**batch).logits
    seen: list[Tensor] = []

    def score(evaluated: PreTrainedModel) -> dict[str, float]:
        with torch.no_grad():
            seen.append(evaluated.eval()(**batch).logits)
        return {"score": 0.0}

    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    half = EncoderTrainer(model=model, args=arguments, score=score, precision="bf16")
    loss = half.compute_loss(model, {**batch, "labels": LABELS})
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    half.evaluate()
    assert torch.equal(seen[0], expected)
