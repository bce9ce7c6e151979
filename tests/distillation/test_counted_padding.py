"""Losses that count padding, like the public code: values and gradients, against float64 loops."""

import numpy as np
import pytest
import torch

from kdqat_cli.distillation.losses import DistillationLoss, hidden_loss, score_loss
from kdqat_cli.names import LOSSES as LOSS_NAMES
from tests.distillation.reference import (
    HEADS,
    LENGTH,
    MASKS,
    ROWS,
    SIZE,
    TIGHT,
    Array,
    LayerLoss,
    Reference,
    arrays,
    both_sides,
    layers,
    logits_reference,
    map_reference,
    slope,
    tensors,
)
from tests.recipes import distillation


def hidden_counted(student: list[Array], teacher: list[Array], mask: Array) -> float:
    """Σ over layers of the MSE over every position of the batch."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        squares = [(a - b) ** 2 for a, b in zip(s.ravel().tolist(), t.ravel().tolist(), strict=True)]
        total += sum(squares) / len(squares)
    return total


def score_counted(student: list[Array], teacher: list[Array], mask: Array) -> float:
    """Eq. 5 with every query; the score of a masked key is 0 in both models; the mean is over all B·H·L·L."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        errors = []
        for row, head, query, key in np.ndindex(s.shape):
            real = bool(mask[row, key])
            own, taught = (float(x[row, head, query, key]) if real else 0.0 for x in (s, t))
            errors.append((own - taught) ** 2)
        total += sum(errors) / len(errors)
    return total


COUNTED: dict[str, tuple[LayerLoss, Reference, tuple[int, ...]]] = {
    "hidden": (hidden_loss, hidden_counted, (ROWS, LENGTH, SIZE)),
    "score": (score_loss, score_counted, (ROWS, HEADS, LENGTH, LENGTH)),
}
each_loss = pytest.mark.parametrize(("loss", "reference", "shape"), COUNTED.values(), ids=COUNTED)
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def test_by_hand() -> None:
    mask = torch.tensor([[1, 0]])
    student, teacher = torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[3.0], [1.0]]])
    assert hidden_loss([student], [teacher], mask).item() == 4, "(1 - 3)²"
    assert hidden_loss([student], [teacher], mask, count_padding=True).item() == 6.5, "(4 + 9) / 2"
    own, taught = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.zeros(1, 1, 2, 2)
    assert score_loss([own], [taught], mask).item() == 1, "the one real pair"
    assert score_loss([own], [taught], mask, count_padding=True).item() == 2.5, "(1 + 0 + 9 + 0) / 4"


@each_loss
@each_mask
def test_equals_the_formula(loss: LayerLoss, reference: Reference, shape: tuple[int, ...], mask: Array) -> None:
    student, teacher = layers(0, shape), layers(1, shape)
    expected = reference(student, teacher, mask)
    for real in (torch.tensor(mask), torch.tensor(mask).long()):  # attention masks are integers
        value = loss(tensors(student), tensors(teacher), real, count_padding=True)
        assert value.item() == pytest.approx(expected, rel=TIGHT)
        single = loss(tensors(student, torch.float32), tensors(teacher, torch.float32), real, count_padding=True)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(expected, rel=1e-6)


@each_loss
@each_mask
def test_the_gradient_agrees_with_the_formula(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...], mask: Array
) -> None:
    mask = mask[:, :4]
    shape = tuple(4 if extent == LENGTH else extent for extent in shape)
    student, teacher = layers(2, shape)[:2], layers(3, shape)[:2]
    variables = tensors(student, grad=True)
    value = loss(variables, tensors(teacher), torch.tensor(mask), count_padding=True)
    value.backward()  # type: ignore[no-untyped-call]
    for values, variable in zip(student, variables, strict=True):
        expected = slope(lambda: reference(student, teacher, mask), values, step=1e-4)
        assert variable.grad is not None
        np.testing.assert_allclose(variable.grad.numpy(), expected, rtol=1e-6, atol=1e-9)


@each_loss
def test_without_padding_there_is_nothing_to_count(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...]
) -> None:
    student, teacher, mask = tensors(layers(4, shape)), tensors(layers(5, shape)), torch.ones(ROWS, LENGTH)
    value = loss(student, teacher, mask, count_padding=True)
    assert value.item() == pytest.approx(loss(student, teacher, mask).item(), rel=1e-12)


@each_loss
@pytest.mark.parametrize("extra", [1, 5])
def test_more_padding_makes_the_mean_smaller(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...], extra: int
) -> None:
    """Padding that is equal in both models only adds to the count; `ignored` corrects this defect."""
    mask = torch.tensor(np.pad(MASKS["odd lengths"], ((0, 0), (0, extra))))
    student, teacher = layers(6, shape), layers(7, shape)
    extents = [(0, extra if extent == LENGTH else 0) for extent in shape]
    own, taught = (tensors([np.pad(x, extents) for x in side]) for side in (student, teacher))
    narrow = reference(student, teacher, MASKS["odd lengths"])
    share = (LENGTH / (LENGTH + extra)) ** shape.count(LENGTH)
    assert loss(own, taught, mask, count_padding=True).item() == pytest.approx(share * narrow, rel=TIGHT)


@pytest.mark.parametrize("garbage", [np.inf, -np.inf, np.nan, 1e30])
def test_a_score_of_a_padded_key_may_be_anything(garbage: float) -> None:
    mask, shape = MASKS["a row of padding"], (ROWS, HEADS, LENGTH, LENGTH)
    student, teacher = layers(8, shape), layers(9, shape)
    expected = score_counted(student, teacher, mask)
    padded = np.broadcast_to(~mask[:, None, None, :], shape)
    for array in (*student, *teacher):
        array[padded] = garbage
    variables = tensors(student, grad=True)
    value = score_loss(variables, tensors(teacher), torch.tensor(mask), count_padding=True)
    assert value.item() == pytest.approx(expected, rel=TIGHT)
    value.backward()  # type: ignore[no-untyped-call]
    for variable in variables:
        assert variable.grad is not None
        assert variable.grad.isfinite().all()
        assert not variable.grad[torch.tensor(padded)].any()


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("mask", [MASKS["odd lengths"], MASKS["a row of padding"]], ids=["odd lengths", "a row"])
def test_the_setting_reaches_every_squared_error_and_no_map(name: str, mask: Array) -> None:
    student, teacher = both_sides()
    draw = np.random.default_rng(0)
    own, taught = draw.normal(0, 1, (ROWS, 3)), draw.normal(0, 1, (ROWS, 3))
    maps = map_reference(arrays(student.scores), arrays(teacher.scores), mask)
    output = hidden_counted(arrays(student.outputs), arrays(teacher.outputs), mask)
    added = {
        "score": {"score": score_counted(arrays(student.scores), arrays(teacher.scores), mask)},
        "map": {"map": maps},
        "output": {"output": output},
        "mha": {"mha": hidden_counted(arrays(student.mha), arrays(teacher.mha), mask)},
        "map+output": {"map": maps, "output": 0.3 * output},
        "logits": {},
    }
    hidden = hidden_counted(arrays(student.hidden), arrays(teacher.hidden), mask)
    expected = {"logits": logits_reference(own, taught), **added[name]}
    if name != "logits":
        expected["hidden"] = hidden
    values = {}
    for padding in ("counted", "ignored"):
        loss = DistillationLoss(distillation(name, beta=0.3, padding=padding))
        terms = loss.terms(student, teacher, torch.tensor(own), torch.tensor(taught), torch.tensor(mask))
        values[padding] = {term: value.item() for term, value in terms.items()}
    assert values["counted"] == pytest.approx(expected, rel=TIGHT)
    for term, value in values["ignored"].items():
        same = term in ("logits", "map")
        assert (value == pytest.approx(expected[term], rel=1e-6)) == same, term


def test_a_choice_of_hidden_states_counts_padding_as_well() -> None:
    student, teacher = both_sides()
    mask, logits = MASKS["odd lengths"], torch.zeros(ROWS, 2)
    settings = distillation("map", hidden_layers=[-1, 0], padding="counted")
    terms = DistillationLoss(settings).terms(student, teacher, logits, logits, torch.tensor(mask))
    own, taught = ([arrays(side.hidden)[index] for index in (-1, 0)] for side in (student, teacher))
    assert terms["hidden"].item() == pytest.approx(hidden_counted(own, taught, mask), rel=TIGHT)
