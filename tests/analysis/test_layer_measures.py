"""Each measure of attention layers beside a loop written from its formula, on padded batches."""

import math

import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.analysis.layers import (
    attention_maps,
    cover_length_ratio,
    map_divergence,
    propagated_norms,
    ranking_loss,
    ranking_ratio,
)

ROWS, HEADS, LENGTH = 3, 2, 9
LENGTHS = [9, 4, 6]


@pytest.fixture
def counted() -> Tensor:
    return torch.arange(LENGTH)[None, :] < torch.tensor(LENGTHS)[:, None]


def _scores(seed: int) -> Tensor:
    return torch.randn(ROWS, HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _queries(counted: Tensor) -> list[tuple[int, int, int, int]]:
    """Row, head, query and length of every real query."""
    return [(b, h, i, LENGTHS[b]) for b in range(ROWS) for h in range(HEADS) for i in range(LENGTHS[b])]


def test_a_map_is_the_softmax_over_the_real_keys(counted: Tensor) -> None:
    scores = _scores(0)
    maps = attention_maps(scores, counted)
    for b, h, i, length in _queries(counted):
        values = [math.exp(scores[b, h, i, j]) for j in range(length)]
        assert maps[b, h, i, :length].tolist() == pytest.approx([value / sum(values) for value in values])
        assert not maps[b, h, i, length:].any()


def test_cover_length_ratio(counted: Tensor) -> None:
    model, teacher = (attention_maps(_scores(seed), counted) for seed in (1, 2))
    found = cover_length_ratio(model, teacher, counted, best=3)
    for b, h, i, length in _queries(counted):
        best = sorted(range(length), key=lambda j: -teacher[b, h, i, j].item())[:3]
        order = sorted(range(length), key=lambda j: -model[b, h, i, j].item())
        assert found[b, h, i].item() == pytest.approx((max(order.index(j) for j in best) + 1) / length)


def test_a_perfect_copy_covers_the_best_keys_at_once(counted: Tensor) -> None:
    maps = attention_maps(_scores(3), counted)
    found = cover_length_ratio(maps, maps, counted, best=5)
    for b, h, i, length in _queries(counted):
        assert found[b, h, i].item() == pytest.approx(min(5, length) / length)


def _loss_of_query(model: list[float], teacher: list[float]) -> float:
    total = 0.0
    for i in range(len(model)):
        for j in range(i + 1, len(model)):
            sign = (teacher[i] > teacher[j]) - (teacher[i] < teacher[j])
            total += max(0.0, -(model[i] - model[j]) * sign)
    return total


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_loss(counted: Tensor, ties: bool) -> None:
    model, teacher = (attention_maps(_scores(seed), counted) for seed in (4, 5))
    if ties:  # many equal probabilities, in both models
        model, teacher = ((6 * maps).round() / 6 for maps in (model, teacher))
    found = ranking_loss(model, teacher, counted)
    for b, h, i, length in _queries(counted):
        wanted = _loss_of_query(model[b, h, i, :length].tolist(), teacher[b, h, i, :length].tolist())
        assert found[b, h, i].item() == pytest.approx(wanted, abs=1e-12)


def test_ranking_loss_of_one_swapped_pair() -> None:
    teacher = torch.tensor([0.6, 0.3, 0.1]).expand(1, 1, 3, 3)
    model = torch.tensor([0.6, 0.15, 0.25]).expand(1, 1, 3, 3)
    found = ranking_loss(model, teacher, torch.ones(1, 3, dtype=torch.bool))
    assert found.flatten().tolist() == pytest.approx([0.1] * 3)


def test_ranking_ratio(counted: Tensor) -> None:
    maps = attention_maps(_scores(6), counted)
    found = ranking_ratio(maps, counted)
    for b, h, i, length in _queries(counted):
        order = sorted(range(length), key=lambda j: -maps[b, h, i, j].item())
        wanted = [(order.index(j) + 1) / length for j in range(length)]
        assert found[b, h, i, :length].tolist() == pytest.approx(wanted)


def test_map_divergence(counted: Tensor) -> None:
    model, teacher = _scores(7), _scores(8)
    found = map_divergence(model, teacher, counted)
    ours, theirs = attention_maps(model, counted), attention_maps(teacher, counted)
    for b, h, i, length in _queries(counted):
        wanted = sum(
            theirs[b, h, i, j].item() * math.log(theirs[b, h, i, j].item() / ours[b, h, i, j].item())
            for j in range(length)
        )
        assert found[b, h, i].item() == pytest.approx(wanted, abs=1e-9)


def test_propagated_norms_are_the_norms_of_each_heads_part_of_the_output() -> None:
    torch.manual_seed(0)
    size, heads = 8, 2
    output = nn.Linear(size, size, dtype=torch.float64)
    values = torch.randn(ROWS, heads, LENGTH, size // heads, dtype=torch.float64)
    found = propagated_norms(values, output)
    for b in range(ROWS):
        for h in range(heads):
            for i in range(LENGTH):
                whole = torch.zeros(size, dtype=torch.float64)
                whole[h * 4 : (h + 1) * 4] = values[b, h, i]
                assert found[b, h, i].item() == pytest.approx((output.weight @ whole).norm().item())


def test_values_at_padding_change_nothing(counted: Tensor) -> None:
    model, teacher = _scores(9), _scores(10)
    other = [
        torch.where(counted[:, None, None, :], scores, 100 * torch.rand_like(scores)) for scores in (model, teacher)
    ]
    real = counted[:, None, :].expand(ROWS, HEADS, LENGTH)
    (ours, theirs), (our_others, their_others) = (
        [attention_maps(scores, counted) for scores in pair] for pair in ([model, teacher], other)
    )
    for measure in (cover_length_ratio, ranking_loss):
        assert torch.equal(measure(ours, theirs, counted)[real], measure(our_others, their_others, counted)[real])
