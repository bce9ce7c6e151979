"""What the quantisation of each part costs: the score after one part at a time is put back to full precision.

A part is the attention of one layer, the feed-forward of one layer, all matrices of one type, the word embedding, all
weights, or the rounding of activations. In a network without attention layers, a part is one weight. To put a weight
back, it is replaced by the teacher's weight of the same name. To put activations back, they are not rounded.

The table has one row per part, with two experiments:

    restored  the model with this part in full precision; gain = its score - the model's score
    alone     the teacher with only this part quantised, as in the model; cost = the teacher's score - its score

For a model that was quantised without training, both are exact. A distilled student is different: its weights have
moved away from the teacher's, and its weights before rounding are not stored. There, `restored` shows whether the
teacher's part still fits the other parts of the student, and `alone` shows how well the student's part works in the
teacher.

All scores are computed by torch on the same rows. For translation only the loss is measured.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdqat_cli.analysis.measure import Measure, Pair, Seen, Spec
from kdqat_cli.analysis.plain import plain_copy
from kdqat_cli.analysis.result import Row
from kdqat_cli.distillation.objective import gold_loss, model_inputs
from kdqat_cli.networks.modules import family_of, layers_of
from kdqat_cli.networks.nets import NETS
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.layers import QuantizedEmbedding, QuantizedLinear, QuantizedWeight
from kdqat_cli.quantizers.parameters import plain_state, quantized_weights
from kdqat_cli.tasks.metrics import compute_metrics
from kdqat_cli.tasks.task import LabelledTask


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: name in tables, for example "layer 5 feed-forward".
        weights: names of its quantised weights.
        activations: whether the part is the rounding of activations instead of weights.
    """

    name: str
    weights: tuple[str, ...] = ()
    activations: bool = False


def parts_of(model: PreTrainedModel) -> list[Part]:
    """The parts of a quantised model, in the model's order."""
    weights = quantized_weights(model)
    if model.config.model_type in NETS:
        return [Part("all weights", tuple(weights)), *(Part(name, (name,)) for name in weights)]
    family = family_of(model)
    attention = {"query", "key", "value", "output"}
    parts: list[Part] = []
    types: dict[str, list[str]] = {}
    for number in range(len(layers_of(model))):
        halves: dict[str, list[str]] = {"attention": [], "feed-forward": []}
        for role, module in family.configured(model.config.to_dict()).layer_matrices.items():
            name = f"{family.layer(number)}{module}.weight"
            if name in weights:
                halves["attention" if role in attention else "feed-forward"].append(name)
                types.setdefault(role, []).append(name)
        parts += [Part(f"layer {number} {half}", tuple(names)) for half, names in halves.items() if names]
    parts += [Part(f"every {role}", tuple(names)) for role, names in types.items()]
    word = f"{family.word_embedding}.weight"
    if word in weights:
        parts.append(Part("word embedding", (word,)))
    if _rounding(model):
        parts.append(Part("activations", activations=True))
    return [Part("all weights", tuple(weights)), *parts]


@contextmanager
def restored(model: PreTrainedModel, teacher: PreTrainedModel, part: Part) -> Iterator[None]:
    """Puts one part of the model back to full precision for the duration of the block."""
    with ExitStack() as stack:
        if part.activations:
            for module in _rounding(model):
                stack.callback(setattr, module, "quantizer", module.quantizer)
                module.quantizer = None
        taught = dict(teacher.named_parameters())
        weights = quantized_weights(model)
        for name in part.weights:
            _restore(model, name, weights[name], taught[name].detach(), stack)
        yield


@contextmanager
def quantized_alone(teacher: PreTrainedModel, model: PreTrainedModel, part: Part) -> Iterator[None]:
    """Gives a plain model the quantised weights that another model has in one part, for the duration of the block."""
    parameters, weights = dict(teacher.named_parameters()), quantized_weights(model)
    before = {name: parameters[name].detach().clone() for name in part.weights}
    try:
        with torch.no_grad():
            for name in part.weights:
                parameters[name].copy_(weights[name].codes().value())
        yield
    finally:
        with torch.no_grad():
            for name, values in before.items():
                parameters[name].copy_(values)


def _rounding(model: PreTrainedModel) -> list[Any]:
    """The modules that round their inputs: quantised linear layers, and the attention."""
    return [m for m in model.modules() if isinstance(getattr(m, "quantizer", None), ActivationQuantizer)]


def _restore(model: nn.Module, name: str, weight: QuantizedWeight, value: Tensor, stack: ExitStack) -> None:
    """Replaces a quantised weight by a value, until the stack closes."""
    if isinstance(weight, QuantizedLinear | QuantizedEmbedding):
        parent, _, last = name.removesuffix(".weight").rpartition(".")
        host = model.get_submodule(parent)
        stack.callback(setattr, host, last, weight)
        setattr(host, last, _plain(weight, value))
        return
    latent = weight.weight
    before = latent.detach().clone()
    stack.callback(lambda: latent.data.copy_(before))
    latent.data.copy_(value)


def _plain(layer: QuantizedLinear | QuantizedEmbedding, value: Tensor) -> nn.Module:
    """A layer with the given weight in full precision; it rounds its input as the quantised layer does."""
    if isinstance(layer, QuantizedEmbedding):
        table = nn.Embedding(value.size(0), value.size(1), padding_idx=layer.padding_idx, device="meta")
        table.weight = nn.Parameter(value, requires_grad=False)
        return table
    made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    made.weight, made.bias = nn.Parameter(value, requires_grad=False), layer.bias
    if (quantizer := layer.quantizer) is not None:
        made.register_forward_pre_hook(lambda _, inputs: (quantizer(inputs[0]),))
    return made


class _Diagnosis:
    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._batches: list[dict[str, Tensor]] = []

    def add(self, seen: Seen) -> None:
        self._batches.append(seen.batch)

    def table(self) -> list[Row]:
        pair = self._pair
        plain = plain_copy(pair.teacher)
        full, whole = self._measured(plain), self._measured(pair.model)
        rows: list[Row] = [{"part": "nothing", "score": whole[0], "gain": 0.0, "loss": whole[1]}]
        for part in parts_of(pair.model):
            with restored(pair.model, plain, part):
                score, loss = self._measured(pair.model)
            row: Row = {"part": part.name, "score": score, "gain": _minus(score, whole[0]), "loss": loss}
            if not part.activations:
                with quantized_alone(plain, pair.model, part):
                    score, loss = self._measured(plain)
                row |= {"alone": score, "cost": _minus(full[0], score), "alone_loss": loss}
            rows.append(row)
        return rows

    @torch.no_grad()
    def _measured(self, model: PreTrainedModel) -> tuple[float | None, float]:
        """The score in percent, and the mean loss on the labels."""
        logits, labels, losses = [], [], []
        for batch in self._batches:
            found = model(**model_inputs(batch)).logits
            losses.append((float(gold_loss(found, batch["labels"])), len(batch["labels"])))
            logits.append(found.float().cpu())
            labels.append(batch["labels"].cpu())
        loss = sum(value * count for value, count in losses) / sum(count for _, count in losses)
        task = self._pair.task
        if not isinstance(task, LabelledTask):
            return None, loss
        threshold = getattr(model.config, "threshold", None)  # of a multi-label model
        metrics = compute_metrics(task, np.asarray(torch.cat(logits)), np.asarray(torch.cat(labels)), threshold)
        return metrics["score"], loss


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _make(pair: Pair) -> Measure | None:
    """The measure; None: the model is not quantised, or names or shapes of its parameters differ from the teacher's."""
    taught = {name: values.shape for name, values in pair.teacher.state_dict().items()}
    same = taught == {name: values.shape for name, values in plain_state(pair.model).items()}
    return _Diagnosis(pair) if same and quantized_weights(pair.model) else None


_ABOUT = "score with one part at a time put back to full precision, and with it alone quantised"
SPECS = {"diagnosis": Spec(_ABOUT, frozenset(), _make, costly=True)}
