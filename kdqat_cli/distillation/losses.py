"""The distillation losses of Kim et al. (EMNLP 2022), as pure functions of student and teacher tensors.

Each loss compares layer by layer and returns the sum over layers. `mask` is (B, L), true at real tokens. Means leave
padding out, so a loss does not depend on the amount of padding. A row with only padding contributes nothing. With
`count_padding`, the squared errors and their means include padding, as in the public code. Two more options follow the
public code: `cutoff` of the score loss and `floor` of the map loss. The teacher's tensors get no gradient (the caller
runs the teacher without one).

`LOSSES` is the catalogue: the values of `--loss`, which `kdqat ls losses` lists.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kdqat_cli.autograd import Context
from kdqat_cli.config import Distillation
from kdqat_cli.distillation.logits import label_sets_loss, logits_loss, wide
from kdqat_cli.names import LOSSES as LOSS_NAMES
from kdqat_cli.native import fused
from kdqat_cli.networks.captures import Captures

Layers = list[Tensor]
Options = dict[str, bool | float | None]
"""Keyword arguments of a layer-wise loss."""


def hidden_loss(student: Layers, teacher: Layers, mask: Tensor, count_padding: bool = False) -> Tensor:
    """Σ over layers of the mean squared error of (B, L, D) at real tokens; on attention outputs, this is Eq. 7."""
    tokens = torch.ones_like(mask) if count_padding else mask
    count = (tokens.sum() * student[0].size(-1)).clamp(min=1)
    chosen = None if count_padding else mask.bool()[..., None]
    return _squared_errors(student, teacher, chosen) / count


def score_loss(
    student: Layers, teacher: Layers, mask: Tensor, count_padding: bool = False, cutoff: float | None = None
) -> Tensor:
    """Eq. 5: Σ over layers of the mean squared error of the scores (B, H, L, L) where query and key are real.

    With `count_padding`, padded queries count, and padded keys count as errors of 0. Scores at or below `cutoff` are
    replaced by 0 in both models and get no gradient.
    """
    if cutoff is not None:
        student, teacher = ([_cut_off(x, cutoff) for x in side] for side in (student, teacher))
    pairs = mask.bool()[:, None, None, :] if count_padding else _pairs(mask)
    count = student[0].numel() if count_padding else (pairs.sum() * student[0].size(1)).clamp(min=1)
    return _squared_errors(student, teacher, pairs) / count


def map_loss(
    student: Layers, teacher: Layers, mask: Tensor, temperature: float = 1.0, floor: float | None = None
) -> Tensor:
    """Eq. 6: Σ over layers of KL(AM_teacher ‖ AM_student), mean over real queries, heads and batch.

    The maps are softmax(score / temperature) over the real keys of the scores (B, H, L, L), without the factor
    temperature² (Table 1). The loss of a sentence is the mean over its queries: it is divided by the length of the
    sentence, as in the public code and unlike the printed equation. Probabilities below `floor` are raised to `floor`
    in both models, in the maps and in their logarithms, and get no gradient.
    """
    lengths = mask.sum(-1)
    sentences = (lengths > 0).sum().clamp(min=1)
    # The share of each query in the mean of its sentence, in the precision of the scores.
    share = mask.to(student[0].dtype) / lengths.clamp(min=1)[:, None]
    weight = share / (sentences * student[0].size(1))
    apply: Callable[..., Tensor] = _Divergence.apply
    return _sum(apply(s, t, mask, weight, temperature, floor) for s, t in zip(student, teacher, strict=True))


def _cut_off(scores: Tensor, cutoff: float) -> Tensor:
    """Sets scores at or below the cutoff to 0. On a CPU, checking the lowest score first is faster."""
    if scores.is_cpu and scores.detach().amin() > cutoff:
        return scores
    return F.threshold(scores, cutoff, 0.0)


def _pairs(mask: Tensor) -> Tensor:
    """(B, L) → (B, 1, L, L), true where query and key are both real."""
    real = mask.bool()
    return (real[:, :, None] & real[:, None, :])[:, None]


def _squared_errors(student: Layers, teacher: Layers, chosen: Tensor | None) -> Tensor:
    apply: Callable[..., Tensor] = _SquaredErrors.apply
    return _sum(apply(s, t, chosen) for s, t in zip(student, teacher, strict=True))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


class _SquaredErrors(torch.autograd.Function):
    """Σ (s - t)² of one layer where `chosen` is true (None: everywhere). Keeps s - t, the gradient up to a factor."""

    @staticmethod
    def forward(ctx: Context, student: Tensor, teacher: Tensor, chosen: Tensor | None) -> Tensor:
        errors = student - teacher
        if chosen is not None:  # not a product: padding may be infinite, and 0 · inf is NaN
            errors.masked_fill_(~chosen, 0)
        ctx.save_for_backward(errors)
        rows = errors.flatten(1)
        return torch.matmul(rows[:, None], rows[:, :, None]).sum()

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (errors,) = ctx.saved_tensors
        return errors * (2 * grad_outputs[0]), None, None


class _Divergence(torch.autograd.Function):
    """Σ over (B, H, L) queries of weight (B, L) · KL(p_t ‖ p_s) of one layer, p = softmax(score / τ) over real keys.

    With t and s divided by τ, KL = Σ p_t (t - s) - lse(t) + lse(s), and its gradient with respect to s is p_s - p_t.
    This needs two softmaxes, but no logarithm or exponential of a whole map. lse (log-sum-exp) is computed from the
    most likely key: lse(x) = max x - log max softmax(x).

    With a floor ε, KL = Σ a · (log a - log b) with a = max(p_t, ε) and b = max(p_s, ε). The logarithms are
    max(score - lse, log ε). The gradient with respect to s is p_s · Σ c - c, with c = a where p_s >= ε, else 0.
    """

    @staticmethod
    def forward(
        ctx: Context,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor,
        weight: Tensor,
        temperature: float,
        floor: float | None,
    ) -> Tensor:
        if fused.fuses(student, teacher, weight):
            total, slope = fused.divergence(student, teacher, mask, weight, temperature, floor)
            ctx.save_for_backward(slope)
            return student.new_tensor(total)
        pairs, weight = _pairs(mask), weight[:, None]
        # A large finite number, not -inf: a padded query has no real key, and a softmax of only -inf is NaN.
        lowest = torch.full((), torch.finfo(student.dtype).min, dtype=student.dtype, device=student.device)
        if temperature != 1.0:
            student, teacher = student / temperature, teacher / temperature
        student, teacher = torch.where(pairs, student, lowest), torch.where(pairs, teacher, lowest)
        own, taught = student.softmax(-1), teacher.softmax(-1)
        own_lse, taught_lse = _log_sum_exp(student, own), _log_sum_exp(teacher, taught)
        if floor is None:
            divergence = teacher.sub_(student).mul_(taught).sum(-1) + own_lse - taught_lse  # (B, H, L)
            slope = own.sub_(taught)
        else:
            unseen = 0 * student.amin(-1) + 0 * teacher.amin(-1)  # NaN if a score is -inf, which the floor would hide
            own_log = student.sub_(own_lse[..., None]).clamp_(min=math.log(floor))
            taught_log = teacher.sub_(taught_lse[..., None]).clamp_(min=math.log(floor))
            taught = taught.clamp_(min=floor)
            # Padded keys contribute 0, because both probabilities are the floor.
            divergence = taught_log.sub_(own_log).mul_(taught).sum(-1) + unseen
            followed = taught.masked_fill_(~pairs | (own < floor), 0)
            slope = own.mul_(followed.sum(-1, keepdim=True)).sub_(followed)
        ctx.save_for_backward(slope.mul_((weight / temperature)[..., None]))
        return (divergence * weight).sum()

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad_outputs[0], None, None, None, None, None


def _log_sum_exp(scores: Tensor, probabilities: Tensor) -> Tensor:
    return scores.amax(-1) - probabilities.amax(-1).log()


def answers(mask: Tensor, per_token: bool) -> Tensor:
    """The number of predictions in a batch: one per real token, or one per row with a real token.

    Args:
        mask: (B, L), true at real tokens.
        per_token: whether there is a prediction for each token, not for each row.
    """
    return mask.sum() if per_token else sentences(mask)


def sentences(mask: Tensor) -> Tensor:
    """The number of rows of a mask (B, L) with a real token."""
    return (mask.sum(-1) > 0).sum()


LayerLoss = Callable[..., Tensor]
"""(student, teacher, mask, **options) → the sum over layers of a mean; the mask is (B, L)."""


@dataclass(frozen=True)
class Term:
    """One summand of a loss: a layer-wise loss on one field of `Captures`.

    Attributes:
        capture: the field.
        function: the loss, a mean.
        count: mask → the number that the mean divides by, up to a factor that is the same for all batches.
        options: settings → keyword arguments of the function.
    """

    capture: str
    function: LayerLoss
    count: Callable[[Tensor], Tensor]
    options: Callable[[Distillation], Options] = lambda settings: {}


def _padding(settings: Distillation) -> Options:
    return {"count_padding": settings.padding == "counted"}


TERMS: dict[str, Term] = {
    "hidden": Term("hidden", hidden_loss, Tensor.sum, _padding),
    "score": Term(
        "scores",
        score_loss,
        lambda mask: mask.sum(-1).square().sum(),
        lambda settings: _padding(settings) | {"cutoff": settings.score_cutoff},
    ),
    # The public code leaves padded queries out too, so `padding` has no effect here.
    "map": Term(
        "scores",
        map_loss,
        sentences,
        lambda settings: {"temperature": settings.temperature, "floor": settings.map_floor},
    ),
    "output": Term("outputs", hidden_loss, Tensor.sum, _padding),
    "mha": Term("mha", hidden_loss, Tensor.sum, _padding),
}


@dataclass(frozen=True)
class Loss:
    """One value of `--loss`.

    Attributes:
        terms: the attention terms that are added to the loss of the logits.
        about: what the loss compares.
        source: paper and equation.
        always: other layer-wise terms; every loss of Kim et al. has the hidden states.
    """

    terms: tuple[str, ...]
    about: str
    source: str
    always: tuple[str, ...] = ("hidden",)


LOSSES: dict[str, Loss] = {
    "score": Loss(("score",), "attention scores, before softmax: the TernaryBERT baseline", "Eq. 5"),
    "map": Loss(("map",), "attention maps, by KL divergence; reads temperature", "Eq. 6, Table 1"),
    "output": Loss(("output",), "attention outputs Y = LayerNorm(X + MHA(X))", "Eq. 7"),
    "mha": Loss(("mha",), "MHA(X), before dropout, residual and LayerNorm", "Table 5"),
    "map+output": Loss(
        ("map", "output"), "SM1: map + beta·output, SM2: output + beta·map; reads mix, beta, temperature", "Eq. 8"
    ),
    "logits": Loss((), "only the logits; for networks of any architecture", "Polino et al., section 2", always=()),
}


def register(name: str, term: Term, about: str, source: str) -> None:
    """Adds a loss with one attention term; its name is then a value of `--loss`.

    Raises:
        ValueError: the name is taken.
    """
    LOSS_NAMES.add(name, None)
    TERMS[name] = term
    LOSSES[name] = Loss((name,), about, source)


_SCALED = {"SM1": "output", "SM2": "map"}


@dataclass(frozen=True)
class DistillationLoss:
    """The sum of terms that `--loss` names: logits, hidden states, attention; in a mix, beta scales one term."""

    settings: Distillation

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each layer-wise term."""
        loss = LOSSES[self.settings.loss]
        terms = loss.terms
        scaled = _SCALED[self.settings.mix] if len(terms) > 1 else None
        attention = {term: self.settings.beta if term == scaled else 1.0 for term in terms}
        return dict.fromkeys(loss.always, 1.0) | attention

    @property
    def captures(self) -> frozenset[str]:
        """The fields of `Captures` that the terms need."""
        return frozenset(TERMS[term].capture for term in self.weights)

    def terms(
        self, student: Captures, teacher: Captures, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms that compare student and teacher, by name; their sum is the loss."""
        taught = Captures(**{name: list(getattr(teacher, name)) for name in self.captures})
        running = RunningLoss(self, taught, mask)
        for name in self.captures:
            for tensor in getattr(student, name):
                running.compare(name, tensor)
        return running.terms(student_logits, teacher_logits)

    def of_logits(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, sets: bool = False) -> Tensor:
        """The weighted loss of logits (B, C), or of logits per token (B, L, C) at the real tokens of the mask.

        With `sets` the rows are multi-label ones.
        """
        chosen = self.settings
        weight = chosen.logits / (student.size(-1) if chosen.logits_mean == "classes" else 1)
        if sets:
            return weight * label_sets_loss(student, teacher, chosen.logits_temperature)
        return weight * logits_loss(student, teacher, chosen.logits_temperature, mask)

    def counts(self, mask: Tensor, per_token: bool = False) -> dict[str, Tensor]:
        """The number that the mean of each term over a batch divides by, up to a constant factor.

        Weighted by these counts, the means of several batches give the mean of all their rows. If padding is counted,
        the batches must have the same length.

        Args:
            mask: (B, L), true at real tokens.
            per_token: whether there are logits and labels for each token, not for each row.
        """
        counted = self.settings.padding == "counted"
        counts = {name: sentences(mask) if counted else TERMS[name].count(mask) for name in self.weights}
        return counts | dict.fromkeys(("logits", "labels"), answers(mask, per_token))

    def of_layer(self, capture: str, layer: int, layers: int) -> dict[str, tuple[float, LayerLoss]]:
        """The terms that use one layer of a capture: name → weight and function; `layers` is the number of layers."""
        chosen = self.settings.hidden_layers
        counts = 1 if chosen == "all" or capture != "hidden" else [index % layers for index in chosen].count(layer)
        names = [name for name in self.weights if TERMS[name].capture == capture and counts]
        return {
            name: (counts * self.weights[name], partial(TERMS[name].function, **TERMS[name].options(self.settings)))
            for name in names
        }


class RunningLoss:
    """Computes the terms of one batch layer by layer during the student's forward pass, which frees maps early."""

    def __init__(self, loss: DistillationLoss, teacher: Captures, mask: Tensor, sets: bool = False) -> None:
        """Starts before the first layer.

        Args:
            loss: the loss to compute.
            teacher: the teacher's captures; each tensor is removed when it has been compared.
            mask: (B, L), true at real tokens.
            sets: whether rows are multi-label.
        """
        self._loss, self._teacher, self._mask, self._sets = loss, teacher, mask, sets
        self._layers = {name: len(getattr(teacher, name)) for name in loss.captures}
        self._values: dict[tuple[str, int], Tensor] = {}  # by term and layer

    def compare(self, capture: str, student: Tensor) -> None:
        """Compares the next tensor of a capture of the student with the teacher's."""
        waiting: Layers = getattr(self._teacher, capture)
        layers = self._layers[capture]
        layer = layers - len(waiting)
        student, teacher = wide(student), wide(waiting.pop(0))
        with torch.autocast(student.device.type, enabled=False):  # this runs inside the student's forward pass
            for name, (weight, function) in self._loss.of_layer(capture, layer, layers).items():
                self._values[name, layer] = weight * function([student], [teacher], self._mask)

    def terms(self, student_logits: Tensor, teacher_logits: Tensor) -> dict[str, Tensor]:
        """The terms by name, after the forward pass."""
        sums = {
            name: torch.stack([value for (term, _), value in self._values.items() if term == name]).sum()
            for name in self._loss.weights
        }
        logits = self._loss.of_logits(wide(student_logits), wide(teacher_logits), self._mask, sets=self._sets)
        return {"logits": logits} | sums

    def by_layer(self) -> dict[str, Tensor]:
        """The values of the layer-wise terms per layer, in the order of the forward pass; layers are counted from 0."""
        return {f"{name} (layer {layer})": value for (name, layer), value in self._values.items()}
