"""The objectives of trainings: named terms, each a mean over the rows or tokens of a batch. Their sum is the loss.

`OnLabels` fine-tunes a teacher. `OnTeacher` distils a student: it runs both models and compares their captures.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdqat_cli.config import PerName, PrecisionName
from kdqat_cli.distillation.logits import wide
from kdqat_cli.distillation.losses import TERMS, DistillationLoss, RunningLoss, answers
from kdqat_cli.networks.captures import capture
from kdqat_cli.networks.modules import family_of
from kdqat_cli.networks.shallower import keep_layers

Batch = dict[str, Tensor]
STAND_IN = "stand_in"
"""Marks the dummy batch of a process without rows in a step; it is computed, and its weight in the loss is 0."""


class Objective(Protocol):
    """What the training loop needs of an objective."""

    trains: str
    """The name of the trained model in messages."""
    models: dict[str, nn.Module]
    """The other models by their names in messages."""

    def to(self, device: torch.device) -> None:
        """Moves the other models."""

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of one batch, with gradients.

        Args:
            model: the trained model, perhaps wrapped for several processes.
            batch: from `Rows.collate` (tasks/kind.py), on the device of the model.
        """

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The number that the mean of each term divides by, up to a factor that is the same for all batches."""

    def parts(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The terms, with layer-wise terms per layer, to find the first that is not finite."""


class OnLabels:
    """Cross entropy with the labels (multi-label: binary), or the squared error."""

    trains = "model"

    def __init__(self, precision: PrecisionName = "fp32", per: PerName = "answer") -> None:
        """Sets the precision of matrix products, and what the loss is a mean over."""
        self.models: dict[str, nn.Module] = {}
        self._products, self._per = _Products(precision), per

    def to(self, device: torch.device) -> None:
        """Does nothing, because there is no other model."""

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """See `Objective`."""
        with self._products.on(batch):
            logits = model(**model_inputs(batch)).logits
        return {"labels": _per_row(batch, self._per) * gold_loss(logits, batch["labels"])}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """See `Objective`."""
        return {"labels": answers(_counted(batch), _per_token(batch) and self._per == "answer")}

    parts = terms


class OnTeacher:
    """A distillation loss, plus the loss on labels if that has a weight."""

    trains = "student"

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        loss: DistillationLoss,
        precision: PrecisionName,
        per: PerName = "answer",
    ) -> None:
        """Sets the models and the loss.

        Args:
            student: the trained model, not wrapped.
            teacher: the teacher, which uses kdqat's attention function; it is set to eval mode.
            loss: the loss that compares student and teacher.
            precision: precision of the matrix products of both models; with bf16, products of integers stay exact.
            per: whether the losses of logits and labels are means over answers or rows.
        """
        self._student, self._teacher, self._loss = student, teacher.eval(), loss
        self.models: dict[str, nn.Module] = {"teacher": teacher}
        self._products, self._per = _Products(precision), per

    def to(self, device: torch.device) -> None:
        """Moves the teacher."""
        self._teacher.to(device)

    def terms(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """See `Objective`."""
        return self._compared(model, batch)[0]

    def parts(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """See `Objective`."""
        return self._compared(model, batch)[1]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """See `Objective`."""
        return self._loss.counts(_counted(batch), _per_token(batch) and self._per == "answer")

    def _compared(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        inputs, loss = model_inputs(batch), self._loss
        with self._products.on(batch), torch.no_grad(), capture(self._teacher, loss.captures) as taught:
            teacher_logits = self._teacher(**inputs).logits
        if loss.settings.layers is not None:
            keep_layers(taught, loss.settings.layers, family_of(self._teacher).pre_norm)
        running = RunningLoss(loss, taught, batch["counted"], are_sets(batch["labels"]))
        with self._products.on(batch), capture(self._student, loss.captures, running.compare):
            logits = model(**inputs).logits
        terms = running.terms(logits, teacher_logits)
        if loss.settings.labels:
            terms["labels"] = loss.settings.labels * gold_loss(logits, batch["labels"])
        for name in ("logits", "labels"):
            if name in terms:
                terms[name] = _per_row(batch, self._per) * terms[name]
        whole = {name: value for name, value in terms.items() if name not in TERMS}
        return terms, running.by_layer() | whole


class _Products:
    """The precision of matrix products. The precision of the model does not change."""

    def __init__(self, precision: PrecisionName) -> None:
        self._half = precision == "bf16"

    def on(self, batch: Batch) -> torch.autocast:
        return torch.autocast(next(iter(batch.values())).device.type, torch.bfloat16, enabled=self._half)


def gold_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with the labels (B,), or the squared error for one column of logits.

    For logits per token (B, L, C) and labels (B, L), it is the mean over the tokens with a label other than -100. For
    multi-label rows, with labels y (B, C) of 1 and 0, it is −Σ_c y_c · log σ(x_c) + (1 − y_c) · log(1 − σ(x_c)), mean
    over the batch.
    """
    logits = wide(logits)
    if are_sets(labels):
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum") / len(logits)
    if logits.dim() == 3:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    if logits.size(-1) == 1:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def _per_row(batch: Batch, per: PerName) -> Tensor | float:
    """The factor that turns a mean over answers into the mean over rows of the sums of their answers."""
    if per == "answer" or not _per_token(batch):
        return 1.0
    mask = batch["counted"]
    return answers(mask, True) / answers(mask, False)


def model_inputs(batch: Batch) -> Batch:
    """The inputs of the model in a batch."""
    return {name: values for name, values in batch.items() if name not in ("labels", "counted", STAND_IN)}


def are_sets(labels: Tensor) -> bool:
    """Whether labels are those of multi-label rows, which are floats (B, C); classes per token (B, L) are integers."""
    return labels.dim() == 2 and labels.is_floating_point()


def _per_token(batch: Batch) -> bool:
    return batch["labels"].dim() > 1 and not are_sets(batch["labels"])


def _counted(batch: Batch) -> Tensor:
    """The mask (B, L) of the tokens in means: without padding, and without the tokens of a dummy batch."""
    mask = batch["counted"]
    return torch.zeros_like(mask) if STAND_IN in batch else mask
