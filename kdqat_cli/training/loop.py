"""The training loop for teachers and students, with any network, task and loss.

Each optimiser step uses one batch, which the processes of the group share. The dev metrics of `score` choose the
weights that are kept.

Guarantees
- An interrupted training that is called again ends with the same bits.
- Several processes take the same steps as one process, up to rounding.
- If the loss, the gradient or a weight is not finite, or the loss grows out of bounds, the training ends with the
  reason before anything is overwritten.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.trainer_utils import enable_full_determinism

from kdqat_cli import group
from kdqat_cli.config import Training
from kdqat_cli.distillation.objective import Batch, Objective
from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.networks.finite import weight_at_fault
from kdqat_cli.quantizers.parameters import as_frozen
from kdqat_cli.store.progress import DevScore
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.checkpoints import Checkpoints
from kdqat_cli.training.diagnosis import explain
from kdqat_cli.training.history import LossMeans, Row, growth
from kdqat_cli.training.memory import keep_freed_memory
from kdqat_cli.training.optimizers import optimizer_of
from kdqat_cli.training.schedule import ends_early, share_of_rate

Progress = Callable[[int, int, str], None]
"""Called after each step with the step, the number of steps, and news (may be empty); a score is a `DevScore`."""

_RESUMED = "continues from here"
_LOGS = 100  # logs of a training with enough steps; at most twice as many, plus one per evaluation


class Trained(NamedTuple):
    """The result of a training."""

    steps: int
    """Number of optimiser steps."""
    history: list[Row]
    """One row per evaluation, and one per log; losses are means over the steps since the previous row."""


@dataclass(eq=False)
class Loop:
    """One training: `run` trains a model in place and leaves it at its best evaluation on dev.

    Attributes:
        model: the teacher to fine-tune, or the student.
        batches: the training batches.
        objective: the loss to minimise.
        score: computes the dev metrics of a model; `settings.keep_best` names the metric to maximise.
        settings: how to train.
        seed: seed of dropout; the seed of the order of rows is in `batches`.
        resume: folder of the checkpoints of this training; it continues from the newest.
        progress: called after every step.
    """

    model: PreTrainedModel
    batches: SharedBatches
    objective: Objective
    score: Callable[[PreTrainedModel], dict[str, float]]
    settings: Training
    seed: int
    resume: Path
    progress: Progress

    def __post_init__(self) -> None:
        """Reads the progress of the training."""
        self.steps = self.settings.max_steps or ceil(self.settings.epochs * len(self.batches))
        self.checkpoints = Checkpoints(self.resume)
        self.standing = self.checkpoints.standing()
        self.scores = self.standing.scores
        self.means = LossMeans()
        keep_freed_memory()
        if group.size() > 1 and any(isinstance(module, _BatchNorm) for module in self.model.modules()):
            raise ConfigError(
                f"The network has batch normalisation, which is not supported on {group.size()} devices: each has only "
                "a part of the batch.",
                "the same command without --devices",
            )

    def run(self) -> Trained:
        """Trains from the newest checkpoint, or from the start, to the end.

        Raises:
            GateError: the training diverges.
        """
        now = self.standing
        if now.step:
            self.progress(now.step, self.steps, _RESUMED)
        if not self._ended():  # it may have ended when the command was interrupted
            self._train()
        self.checkpoints.load_best(self.model, now)
        return Trained(now.step, now.history)

    def _train(self) -> None:
        enable_full_determinism(self.seed)
        torch.manual_seed(self.seed + group.rank())  # each process draws its own dropout
        here = Accelerator(cpu=group.size() > 1 and not torch.cuda.is_available(), mixed_precision="no")
        optimizer = optimizer_of(self.model, self.settings)
        trained, optimizer = here.prepare(self.model, optimizer)
        self.objective.to(here.device)
        for batch in self._batches(here):
            trained.train()
            losses = self._losses(trained, batch)
            here.backward(losses["loss"])
            # bert-adam clips by itself, but the gradient norm is still checked.
            clip = inf if self.settings.optimizer == "bert-adam" else self.settings.gradient_clip
            norm = here.clip_grad_norm_(trained.parameters(), clip)
            if not torch.isfinite(losses["loss"].detach() + norm):
                models = {self.objective.trains: self.model} | self.objective.models
                raise self._stopped(explain(models, lambda: self.objective.parts(self.model, batch)), 1)  # noqa: B023
            rate = self.settings.learning_rate * share_of_rate(
                self.settings, self.standing.step, self.steps, self.scores
            )
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            self.means.add(losses)
            self._after_step(here, rate)

    def _batches(self, here: Accelerator) -> Iterator[Batch]:
        """The remaining batches, on the device; a resumed epoch continues with its next batch."""
        restore: Callable[[], None] | None = partial(self.checkpoints.restore, here)
        while not self._ended():
            epoch, done = divmod(self.standing.step, len(self.batches))
            # The iterator draws a random number. In an uninterrupted training it does so before a checkpoint within the
            # epoch, and after a checkpoint at the start of the epoch.
            if restore and not done:
                restore()
            loader = iter(self.batches.loader(epoch, done))
            if restore and done:
                restore()
            restore = None
            for batch in loader:
                yield send_to_device(batch, here.device, non_blocking=True)
                if self._ended():
                    return

    def _ended(self) -> bool:
        return self.standing.step >= self.steps or ends_early(self.settings, self.scores)

    def _losses(self, trained: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss and its terms, weighted so that their mean over processes is the mean over all rows."""
        terms = self.objective.terms(trained, batch)
        means = torch.stack(list(terms.values()))
        if group.size() > 1:
            counts = self.objective.counts(batch)
            mine = torch.stack([counts[name] for name in terms]).to(means.dtype)
            means = means * (group.size() * mine / group.add_up(mine.clone()))
        return {"loss": means.sum()} | {f"loss_{name}": mean for name, mean in zip(terms, means, strict=True)}

    def _after_step(self, here: Accelerator, rate: float) -> None:
        now = self.standing
        now.step += 1
        self.progress(now.step, self.steps, "")
        evaluates = self._evaluates(now.step)
        if evaluates or now.step == 1 or now.step % max(1, self.steps // _LOGS) == 0:
            row = {"step": now.step, "epoch": now.step / len(self.batches), "learning_rate": rate}
            now.history.append(row | self.means.take())
        if evaluates:
            self._evaluate()
            self.checkpoints.save(here, now)

    def _evaluates(self, step: int) -> bool:
        every = self.settings.eval_every
        if every is None:
            return step % len(self.batches) == 0 or step == self.steps
        return step % every == 0 or step == max(self.steps - self.settings.eval_before_end, 1)

    def _evaluate(self) -> None:
        """Computes the dev metrics with the code of `kdqat evaluate`, after checks that the weights may be saved."""
        now = self.standing
        if grown := growth(now.history):
            raise self._stopped(grown)
        if weight := weight_at_fault({self.objective.trains: self.model}):
            raise self._stopped(f"{weight} is not finite")
        with as_frozen(self.model, self.seed):  # a stochastic student is scored with the codes that would be saved
            metrics = self.score(self.model)
        now.history[-1] |= metrics
        self.scores.append(metrics["score"])
        self.progress(now.step, self.steps, DevScore(metrics["score"]))
        if metrics[self.settings.keep_best] > now.best:
            now.best, now.best_step = metrics[self.settings.keep_best], now.step

    def _stopped(self, why: str, next_step: int = 0) -> GateError:
        step = self.standing.step + next_step
        return GateError(
            f"The training stopped at step {step} of {self.steps}, before anything was overwritten: {why}.",
            f"the same command with a --learning-rate below {self.settings.learning_rate:g}",
        )
