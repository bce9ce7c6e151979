"""The one training loop: a transformers Trainer that fine-tunes a teacher, or distils a student from one."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerControl

from kdqat_cli import group
from kdqat_cli.config import PrecisionName
from kdqat_cli.distillation.losses import TERMS, DistillationLoss, RunningLoss, sentences, wide
from kdqat_cli.errors import GateError
from kdqat_cli.networks.captures import capture
from kdqat_cli.networks.finite import weight_at_fault
from kdqat_cli.training.batches import STAND_IN, SharedBatches
from kdqat_cli.training.diagnosis import diverged, explain
from kdqat_cli.training.optimizers import share_of_rate


class EncoderTrainer(Trainer):  # type: ignore[misc]
    """Trains on the labels, or with a teacher on a distillation loss (and the labels, where they have a weight).

    Each term of the loss is logged beside the loss, as its mean since the last log.
    """

    def __init__(
        self,
        *args: Any,
        score: Callable[[PreTrainedModel], dict[str, float]],
        batches: SharedBatches | None = None,
        teacher: PreTrainedModel | None = None,
        loss: DistillationLoss | None = None,
        precision: PrecisionName = "fp32",
        warmup: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Adds to Trainer.

        Args:
            *args: Trainer's.
            score: gives the dev metrics of a model.
            batches: the rows of each step; needed to train.
            teacher: runs kdqat's attention function; None: train on the labels.
            loss: what the student learns from the teacher.
            precision: of the models' matrix products; bf16 takes them in bfloat16, but for those of integers.
            warmup: share of the steps in which the learning rate rises.
            **kwargs: Trainer's.
        """
        super().__init__(*args, **kwargs)
        self.score = score
        self.batches = batches
        self.loss = loss
        self.teacher = teacher.to(self.args.device).eval() if teacher is not None else None
        self.model_accepts_loss_kwargs = False  # the losses below are means over the batch
        # Not Trainer's own bf16: that would stay with the model, and evaluate it in another precision than it is saved.
        self._half = precision == "bf16"
        self._warmup = warmup
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._steps = 0
        self._span: dict[str, float] = defaultdict(float)  # the logged losses since the last evaluation, summed
        self._span_steps = 0
        self._called = "model" if teacher is None else "student"

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Trainer's hook: the inputs of this process, which `batches` has shared out already."""
        pin = self.args.dataloader_pin_memory
        loader = DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator, pin_memory=pin
        )
        prepared: DataLoader[Any] = prepare_data_loader(loader, num_processes=1, process_index=0)
        return prepared

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """Trainer's hook: the schedule. Trainer's own would round the warm-up to whole steps."""
        share = partial(share_of_rate, steps=num_training_steps, warmup=self._warmup)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Trainer's hook: the loss of one batch."""
        terms, _, outputs = self._terms(model, inputs)
        terms = self._of_all(terms, inputs)
        for name, value in terms.items():
            self._sums[name] += value.detach()
        self._steps += 1
        total = torch.stack(list(terms.values())).sum()
        self._last = inputs, total.detach()
        return (total, outputs) if return_outputs else total

    def _terms(
        self, model: PreTrainedModel, inputs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
        """The terms of the loss of one batch, the same with those of each layer apart, and the model's outputs."""
        labels = inputs["labels"]
        inputs = {name: values for name, values in inputs.items() if name not in ("labels", STAND_IN)}
        if self.teacher is None or self.loss is None:
            with self._products():
                outputs = model(**inputs)
            terms = {"labels": gold_loss(outputs.logits, labels)}
            return terms, terms, outputs
        with self._products(), torch.no_grad(), capture(self.teacher, self.loss.captures) as teacher:
            teacher_logits = self.teacher(**inputs).logits
        running = RunningLoss(self.loss, teacher, inputs["attention_mask"])
        student = self.accelerator.unwrap_model(model)
        with self._products(), capture(student, self.loss.captures, running.compare):
            outputs = model(**inputs)
        terms = running.terms(outputs.logits, teacher_logits)
        if self.loss.settings.labels:
            terms["labels"] = self.loss.settings.labels * gold_loss(outputs.logits, labels)
        whole = {name: value for name, value in terms.items() if name not in TERMS}
        return terms, running.by_layer() | whole, outputs

    def _products(self) -> torch.autocast:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._half)

    def _of_all(self, terms: dict[str, Tensor], inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Weighs a process's means such that the mean over processes, which the gradients get, is that of all rows."""
        if group.size() == 1:
            return terms
        mask = inputs["attention_mask"]
        counted = torch.zeros_like(mask) if STAND_IN in inputs else mask
        counts = {"labels": sentences(counted)} if self.loss is None else self.loss.counts(counted)
        means = torch.stack(list(terms.values()))
        mine = torch.stack([counts[name] for name in terms]).to(means.dtype)
        share = group.size() * mine / group.add_up(mine.clone())
        return dict(zip(terms, means * share, strict=True))

    def _get_grad_norm(self, model: PreTrainedModel, grad_norm: Any = None) -> Any:
        """Trainer's hook: the norm of the gradient, which stands before the optimiser's step."""
        norm = super()._get_grad_norm(model, grad_norm)
        inputs, loss = self._last
        if not torch.isfinite(loss + norm):
            models = {self._called: self.model} | ({"teacher": self.teacher} if self.teacher is not None else {})
            raise self._stopped(self.state.global_step + 1, explain(models, lambda: self._terms(self.model, inputs)[1]))
        return norm

    def _stopped(self, step: int, why: str) -> GateError:
        return GateError(
            f"The training stopped at step {step} of {self.state.max_steps}, before anything was overwritten: {why}.",
            f"the same command with a --learning-rate below {self.args.learning_rate:g}",
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's hook: adds the terms to the log of the training loss."""
        if "loss" in logs and self._steps:
            means = group.add_up(torch.stack(list(self._sums.values()))) / (self._steps * group.size())
            logs |= {f"loss_{name}": value for name, value in zip(self._sums, means.tolist(), strict=True)}
            for key in [key for key in logs if key.startswith("loss")]:
                self._span[key] += logs[key] * self._steps
            self._span_steps += self._steps
            self._sums.clear()
            self._steps = 0
        super().log(logs, *args, **kwargs)

    def _check_growth(self) -> None:
        """Stops a training whose mean loss since the last evaluation has grown out of bounds.

        Not that of one log, which may be that of one step: there a bad batch is no divergence.
        """
        if not self._span_steps:
            return
        means = {key: total / self._span_steps for key, total in self._span.items()}
        self._span.clear()
        self._span_steps = 0
        first = next(entry for entry in self.state.log_history if "loss" in entry)
        if diverged(means["loss"], first["loss"]):
            term = max((key for key in means if key.startswith("loss_")), key=lambda key: means[key] - first[key])
            raise self._stopped(
                self.state.global_step,
                f"the loss has grown from {first['loss']:.4g} to {means['loss']:.4g}, its term "
                f"{term.removeprefix('loss_')} from {first[term]:.4g} to {means[term]:.4g}",
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Trainer's hook: the dev metrics, by the same code as `kdqat evaluate`. What it sees may be saved."""
        self._check_growth()
        weight = weight_at_fault({self._called: self.model})
        if weight:
            raise self._stopped(self.state.global_step, f"{weight} is not finite")
        metrics = {f"eval_{name}": value for name, value in self.score(self.model).items()}
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def gold_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with the labels (B,); one column of logits: squared error."""
    logits = wide(logits)
    if logits.size(-1) == 1:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)
