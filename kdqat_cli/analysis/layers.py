"""Measures that compare attention layers one by one (Kim et al., EMNLP 2022, sections 3 and 4).

Shapes: B batch, H heads, L length, D hidden size. The mask `counted` (B, L) is true at real tokens. α is an attention
map, the softmax of the scores over the real keys. Queries and keys at padding are left out of all measures. The rank of
a key is its place when the keys of a query are sorted by falling probability.

    cover length ratio    largest rank, from 1, that the teacher's k best keys have in the model / length      (Fig. 4)
    ranking loss          Σ_{i<j} max(0, −(S_i − S_j) · sign(T_i − T_j)) of a query's probabilities            (Eq. 9)
    ranking ratio         rank of a key, from 1 / length                                                       (Fig. 7)
    dynamic range         smallest and largest of the D values of an attention output Y                        (Fig. 5)
    SA-GEN distance       |α_model − α_teacher|                                                                (Fig. 6)
    SA-PROP distance      | ‖f_model(x)‖ − ‖f_teacher(x)‖ |, f(x) = (x W_V + b_V) W_O of one head              (Fig. 6)
    map divergence        KL(α_teacher ‖ α_model) of a query, in nats
    hidden error          ‖x_model − x_teacher‖² / ‖x_teacher‖² over all tokens, of a hidden state

The printed Eq. 9 has neither the hinge nor the sign, but without them its terms cancel. The ranking loss is not
computed pair by pair. If the keys are in the teacher's order, it is ½ Σ_{i<j} (|S_j − S_i| + S_j − S_i). The first sum
follows from sorting and the second from the positions, so a query takes L log L steps.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from kdqat_cli.analysis.measure import Means, Measure, Pair, Seen, Spec
from kdqat_cli.analysis.result import Cell, Row
from kdqat_cli.networks.modules import family_of, layers_of, module_at
from kdqat_cli.quantizers.layers import QuantizedLinear

BEST = 5
"""k of the cover length ratio; the paper's value."""
Found = Iterator[tuple[tuple[Cell, ...], Tensor, Tensor | None]]


def attention_maps(scores: Tensor, counted: Tensor) -> Tensor:
    """α (B, H, L, L) from scores (B, H, L, L): the softmax over the real keys; 0 at padding keys."""
    return scores.masked_fill(~counted[:, None, None, :], -torch.inf).softmax(-1)


def ranks(values: Tensor) -> Tensor:
    """The rank, from 0, of each value along the last axis, by falling value; equal values keep their order."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    numbers = torch.arange(values.size(-1), device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, numbers)


def cover_length_ratio(model: Tensor, teacher: Tensor, counted: Tensor, best: int = BEST) -> Tensor:
    """The share of the keys, best first in the model, that is needed to include the teacher's k best keys.

    Args:
        model: α (B, H, L, L) of the model.
        teacher: α (B, H, L, L) of the teacher.
        counted: mask (B, L) of real tokens.
        best: k; a sentence with fewer keys uses all of them.

    Returns:
        (B, H, L): one ratio per query, from k / length to 1.
    """
    keys = counted[:, None, None, :]
    wanted = (ranks(teacher.masked_fill(~keys, -1)) < best) & keys
    lowest = ranks(model.masked_fill(~keys, -1)).masked_fill(~wanted, -1).amax(-1)
    return (lowest + 1) / counted.sum(-1)[:, None, None]


def ranking_loss(model: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Eq. 9 over the real keys of each query.

    A pair of keys whose order in the model differs from the teacher's adds the distance of its probabilities in the
    model. A pair with equal values in the teacher adds 0.

    Args:
        model: α (B, H, L, L) of the model, S in the formula.
        teacher: α (B, H, L, L) of the teacher, T in the formula.
        counted: mask (B, L) of real tokens.

    Returns:
        (B, H, L): one loss per query.
    """
    keys = counted[:, None, None, :]
    # Padding is last in the teacher's order, and gets the lowest value in the model, so pairs with padding add 0.
    least = model.masked_fill(~keys, torch.inf).amin(-1, keepdim=True)
    model = torch.where(keys, model, least)
    teacher = teacher.masked_fill(~keys, -torch.inf)
    # Keys with equal values in the teacher stay in the model's order, in which their pairs add 0.
    falling, order = model.sort(dim=-1, descending=True)
    taught = teacher.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
    # In any order Σ_{i<j} (S_j − S_i) = Σ_m (2m − L + 1) S_m, and Σ_{i<j} |S_j − S_i| is this sum in rising order.
    length = falling.size(-1)
    weights = 2 * torch.arange(length, device=model.device, dtype=torch.float64) - (length - 1)
    return 0.5 * (falling.gather(-1, taught).double() @ weights - falling.double() @ weights)


def ranking_ratio(maps: Tensor, counted: Tensor) -> Tensor:
    """The rank, from 1, of each key of a query, divided by the length: (B, H, L, L)."""
    found = ranks(maps.masked_fill(~counted[:, None, None, :], -1)) + 1
    return found / counted.sum(-1)[:, None, None, None]


def map_divergence(model: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """KL(α_teacher ‖ α_model) per query (B, H, L), in nats, from scores (B, H, L, L)."""
    keys = counted[:, None, None, :]
    ours, theirs = (scores.masked_fill(~keys, -torch.inf).log_softmax(-1) for scores in (model, teacher))
    terms = theirs.exp() * (theirs - ours)
    return terms.where(keys, 0).sum(-1)


def propagated_norms(values: Tensor, output: nn.Linear | QuantizedLinear) -> Tensor:
    """‖f(x)‖ (B, H, L): the norm of what one head computes from a token, before it is multiplied by α.

    Args:
        values: V (B, H, L, D/H), after the rounding of activations.
        output: the output projection W_O (D, D), quantised or not.
    """
    weight: Tensor = output.codes().value() if isinstance(output, QuantizedLinear) else output.weight
    heads, size = values.size(1), values.size(3)
    parts = weight.view(weight.size(0), heads, size)
    gram = torch.einsum("dhi,dhj->hij", parts, parts)
    return torch.einsum("bhli,hij,bhlj->bhl", values, gram, values).clamp(min=0).sqrt()


class _ByLayer:
    """Means, for each layer, of the values that a function computes from each batch."""

    def __init__(self, pair: Pair, columns: tuple[str, ...], find: Callable[[Pair, Seen, int], Found]) -> None:
        self._pair, self._columns, self._find = pair, columns, find
        self._means = Means()

    def add(self, seen: Seen) -> None:
        for layer in range(len(self._pair.layers or [])):
            for cells, values, mask in self._find(self._pair, seen, layer):
                self._means.add((layer, *cells), values, mask)

    def table(self) -> list[Row]:
        return self._means.rows("layer", *self._columns)


def by_layer(*columns: str) -> Callable[[Callable[[Pair, Seen, int], Found]], Callable[[Pair], Measure | None]]:
    """Makes a measure of a generator function (pair, batch, layer) → (cells, values, mask); the table has the means.

    Args:
        columns: names of the cells, besides `layer`.
    """

    def wrapped(find: Callable[[Pair, Seen, int], Found]) -> Callable[[Pair], Measure | None]:
        return lambda pair: None if pair.layers is None else _ByLayer(pair, columns, find)

    return wrapped


def _per_head(values: Tensor, mask: Tensor) -> Found:
    """One mean per head, from values (B, H, L) and a mask (B, L)."""
    for head in range(values.size(1)):
        yield (head,), values[:, head], mask


def _maps(seen: Seen, layer: int) -> tuple[Tensor, Tensor]:
    return (
        attention_maps(seen.model.scores[layer], seen.counted),
        attention_maps(seen.teacher.scores[layer], seen.counted),
    )


@by_layer("head")
def _cover(pair: Pair, seen: Seen, layer: int) -> Found:
    return _per_head(cover_length_ratio(*_maps(seen, layer), seen.counted), seen.counted)


@by_layer("head")
def _ranking_loss(pair: Pair, seen: Seen, layer: int) -> Found:
    return _per_head(ranking_loss(*_maps(seen, layer), seen.counted), seen.counted)


@by_layer("head", "tokens")
def _ranking_ratio(pair: Pair, seen: Seen, layer: int) -> Found:
    ratios = ranking_ratio(attention_maps(seen.model.scores[layer], seen.counted), seen.counted)
    for name, mask in seen.groups.items():
        for head in range(ratios.size(1)):
            yield (head, name), ratios[:, head], seen.counted[:, :, None] & mask[:, None, :]


@by_layer("head")
def _divergence(pair: Pair, seen: Seen, layer: int) -> Found:
    return _per_head(map_divergence(seen.model.scores[layer], seen.teacher.scores[layer], seen.counted), seen.counted)


@by_layer("tokens", "side")
def _range(pair: Pair, seen: Seen, layer: int) -> Found:
    outputs = seen.model.outputs[layer]
    for name, mask in seen.groups.items():
        yield (name, "min"), outputs.amin(-1), mask
        yield (name, "max"), outputs.amax(-1), mask


@by_layer("part", "tokens")
def _distance(pair: Pair, seen: Seen, layer: int) -> Found:
    ours, theirs = _maps(seen, layer)
    norms = []
    for model, captures, number in (
        (pair.model, seen.model, layer),
        (pair.teacher, seen.teacher, (pair.layers or [])[layer]),
    ):
        block = layers_of(model)[number]
        family = family_of(model)
        values = captures.values[layer]
        quantizer = getattr(module_at(block, family.attention), "quantizer", None)
        values = values if quantizer is None else quantizer(values)
        norms.append(propagated_norms(values, module_at(block, family.mha)))
    for name, mask in seen.groups.items():
        yield ("SA-GEN", name), (ours - theirs).abs(), (seen.counted[:, :, None] & mask[:, None, :])[:, None]
        yield ("SA-PROP", name), (norms[0] - norms[1]).abs(), mask[:, None]


class _HiddenErrors:
    """The relative squared error of each hidden state, as a ratio of sums over all tokens."""

    def __init__(self, pair: Pair) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, seen: Seen) -> None:
        for state, (ours, theirs) in enumerate(zip(seen.model.hidden, seen.teacher.hidden, strict=True)):
            kept = seen.counted[:, :, None]
            error = (ours - theirs).double().square().where(kept, 0).sum()
            size = theirs.double().square().where(kept, 0).sum()
            self._sums[state] = self._sums.get(state, torch.zeros(2, dtype=torch.float64)) + torch.stack([error, size])

    def table(self) -> list[Row]:
        return [
            {"layer": state - 1, "value": float(error / size) if size else None}
            for state, (error, size) in self._sums.items()
        ]


def _hidden_errors(pair: Pair) -> Measure | None:
    return None if pair.layers is None else _HiddenErrors(pair)


_SCORES = frozenset({"scores"})
SPECS = {
    "cover-length": Spec("share of the keys, best first, that includes the teacher's 5 best", _SCORES, _cover),
    "ranking-loss": Spec("by how much pairs of keys have changed their order", _SCORES, _ranking_loss),
    "ranking-ratio": Spec("rank of [CLS], [SEP] and other keys among all keys", _SCORES, _ranking_ratio),
    "map-divergence": Spec("KL divergence of attention maps from the teacher's", _SCORES, _divergence),
    "dynamic-range": Spec("smallest and largest value of a token's attention output", frozenset({"outputs"}), _range),
    "attention-distance": Spec(
        "distance of attention maps (SA-GEN) and of norms of propagated values (SA-PROP)",
        frozenset({"scores", "values"}),
        _distance,
    ),
    "hidden-error": Spec("relative squared error of hidden states", frozenset({"hidden"}), _hidden_errors),
}
