"""Every loss, value and gradient, against the formulas of the spec as loops in float64."""

from typing import Any, Literal

import numpy as np
import pytest
import torch

from kdqat_cli.distillation.logits import logits_loss
from kdqat_cli.distillation.losses import (
    LOSSES,
    TERMS,
    DistillationLoss,
    hidden_loss,
    map_loss,
    score_loss,
)
from kdqat_cli.names import LOSSES as LOSS_NAMES
from kdqat_cli.networks.captures import Captures
from tests.distillation.reference import (
    HEADS,
    LAYERS,
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
    hidden_reference,
    layers,
    logits_reference,
    map_reference,
    score_reference,
    slope,
    tensors,
)
from tests.recipes import distillation

LAYER_LOSSES: dict[str, tuple[LayerLoss, Reference, tuple[int, ...]]] = {
    "hidden": (hidden_loss, hidden_reference, (ROWS, LENGTH, SIZE)),
    "score": (score_loss, score_reference, (ROWS, HEADS, LENGTH, LENGTH)),
    "map": (map_loss, map_reference, (ROWS, HEADS, LENGTH, LENGTH)),
}
each_loss = pytest.mark.parametrize(("loss", "reference", "shape"), LAYER_LOSSES.values(), ids=LAYER_LOSSES)
PARTS = (slice(0, 1), slice(1, ROWS))  # sentences of a batch, on two devices
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@each_loss
@each_mask
def test_equals_the_formula(loss: LayerLoss, reference: Reference, shape: tuple[int, ...], mask: Array) -> None:
    student, teacher = layers(0, shape), layers(1, shape)
    expected = reference(student, teacher, mask)
    assert expected > 0 or not mask.any()
    for real in (torch.tensor(mask), torch.tensor(mask).long()):  # attention masks are integers
        value = loss(tensors(student), tensors(teacher), real)
        assert value.item() == pytest.approx(expected, rel=TIGHT)
        single = loss(tensors(student, torch.float32), tensors(teacher, torch.float32), real)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(expected, rel=1e-6)


@each_loss
@pytest.mark.parametrize("name", ["odd lengths", "a row of padding"])
def test_the_gradient_agrees_with_the_formula(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...], name: str
) -> None:
    mask = MASKS[name][:, :4]
    shape = tuple(4 if extent == LENGTH else extent for extent in shape)
    student, teacher = layers(2, shape)[:2], layers(3, shape)[:2]
    variables = tensors(student, grad=True)
    loss(variables, tensors(teacher), torch.tensor(mask)).backward()  # type: ignore[no-untyped-call]
    for values, variable in zip(student, variables, strict=True):
        expected = slope(lambda: reference(student, teacher, mask), values)
        assert variable.grad is not None
        np.testing.assert_allclose(variable.grad.numpy(), expected, rtol=1e-6, atol=1e-9)


@each_loss
@each_mask
def test_more_padding_changes_nothing(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...], mask: Array
) -> None:
    student, teacher = layers(4, shape), layers(5, shape)
    extents = [(0, 5 if extent == LENGTH else 0) for extent in shape]
    wider = [[np.pad(x, extents, constant_values=9.0) for x in side] for side in (student, teacher)]
    value = loss(tensors(wider[0]), tensors(wider[1]), torch.tensor(np.pad(mask, ((0, 0), (0, 5)))))
    assert value.item() == pytest.approx(reference(student, teacher, mask), rel=TIGHT)


@each_loss
@pytest.mark.parametrize("garbage", [np.inf, -np.inf, np.nan, 1e30])
def test_the_values_of_padding_do_not_matter(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...], garbage: float
) -> None:
    mask = MASKS["a row of padding"]
    student, teacher = layers(6, shape), layers(7, shape)
    expected = reference(student, teacher, mask)
    padding = ~mask[..., None] if len(shape) == 3 else ~(mask[:, None, :, None] & mask[:, None, None, :])
    for array in (*student, *teacher):
        array[np.broadcast_to(padding, shape)] = garbage
    variables = tensors(student, grad=True)
    value = loss(variables, tensors(teacher), torch.tensor(mask))
    assert value.item() == pytest.approx(expected, rel=TIGHT)
    value.backward()  # type: ignore[no-untyped-call]
    for variable in variables:
        assert variable.grad is not None
        assert variable.grad.isfinite().all()
        assert not variable.grad[torch.tensor(np.broadcast_to(padding, shape))].any()


@each_loss
def test_a_student_equal_to_its_teacher_has_no_loss(
    loss: LayerLoss, reference: Reference, shape: tuple[int, ...]
) -> None:
    teacher = layers(8, shape)
    variables = tensors(teacher, grad=True)
    value = loss(variables, tensors(teacher), torch.tensor(MASKS["odd lengths"]))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0
    for variable in variables:
        assert variable.grad is not None
        assert variable.grad.abs().max() < 1e-15


@each_loss
def test_a_different_number_of_layers_is_refused(loss: LayerLoss, reference: Reference, shape: tuple[int, ...]) -> None:
    student, teacher = tensors(layers(0, shape)), tensors(layers(1, shape))
    with pytest.raises(ValueError, match="zip"):
        loss(student[:-1], teacher, torch.tensor(MASKS["odd lengths"]))


def test_the_map_loss_does_not_see_a_shift_of_the_scores() -> None:
    """Softmax is unchanged by a constant per query; the score loss is not."""
    shape = (ROWS, HEADS, LENGTH, LENGTH)
    teacher, mask = tensors(layers(9, shape)), torch.tensor(MASKS["odd lengths"])
    shifted = [t + torch.randn(ROWS, HEADS, LENGTH, 1, dtype=torch.float64) for t in teacher]
    assert map_loss(shifted, teacher, mask).item() == pytest.approx(0, abs=1e-12)
    assert score_loss(shifted, teacher, mask).item() > 0.1


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_the_logits_loss_equals_the_formula(columns: int) -> None:
    draw = np.random.default_rng(columns)
    student, teacher = draw.normal(0, 3, (5, columns)), draw.normal(0, 3, (5, columns))
    expected = logits_reference(student, teacher)
    variable = torch.tensor(student, requires_grad=True)
    value = logits_loss(variable, torch.tensor(teacher))
    assert value.item() == pytest.approx(expected, rel=TIGHT)
    value.backward()  # type: ignore[no-untyped-call]
    assert variable.grad is not None
    slopes = slope(lambda: logits_reference(student, teacher), student)
    np.testing.assert_allclose(variable.grad.numpy(), slopes, rtol=1e-6, atol=1e-9)
    single = logits_loss(torch.tensor(student).float(), torch.tensor(teacher).float())
    assert single.item() == pytest.approx(expected, rel=1e-6)


def test_the_logits_loss_by_hand() -> None:
    # The teacher gives both classes 0.5: -(0.5·log 0.8 + 0.5·log 0.2); regression: (1² + 2²) / 2.
    student = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
    value = logits_loss(student, torch.zeros(1, 2, dtype=torch.float64))
    assert value.item() == pytest.approx(-0.5 * (np.log(0.8) + np.log(0.2)), rel=TIGHT)
    assert logits_loss(torch.tensor([[1.0], [5.0]]), torch.tensor([[2.0], [3.0]])).item() == 2.5


@pytest.mark.parametrize("mean", ["rows", "classes"])
def test_the_loss_of_logits_per_token_is_the_mean_over_real_tokens(mean: Literal["rows", "classes"]) -> None:
    """It is not the mean of the sentences' means, and the values of padding do not matter."""
    draw = np.random.default_rng(6)
    own, taught = draw.normal(0, 2, (ROWS, LENGTH, 5)), draw.normal(0, 2, (ROWS, LENGTH, 5))
    mask = np.asarray(MASKS["odd lengths"])
    own[mask == 0] = np.inf
    loss = DistillationLoss(distillation("logits", logits=0.7, logits_temperature=2.0, logits_mean=mean))
    tensors = torch.tensor(own), torch.tensor(taught), torch.tensor(mask)
    value = loss.of_logits(*tensors).item()
    real = mask.astype(bool)
    expected = 0.7 * 4 * logits_reference(own[real] / 2, taught[real] / 2) / (5 if mean == "classes" else 1)
    assert value == pytest.approx(expected, rel=TIGHT)
    counts = [loss.counts(torch.tensor(mask[part]), per_token=True)["logits"].item() for part in PARTS]
    parts = [loss.of_logits(*(tensor[part] for tensor in tensors)).item() for part in PARTS]
    assert sum(counts) == mask.sum()
    assert value == pytest.approx(np.dot(parts, counts) / sum(counts), rel=TIGHT), "several devices need this"


@pytest.mark.parametrize("mean", ["rows", "classes"])
def test_a_temperature_softens_both_sides_of_the_logits_loss(mean: Literal["rows", "classes"]) -> None:
    """Polino et al.: weight · T² · KL; the public code also divides by the number of classes."""
    draw = np.random.default_rng(5)
    own, taught = draw.normal(0, 2, (ROWS, 3)), draw.normal(0, 2, (ROWS, 3))
    settings = distillation("logits", logits=0.7, logits_temperature=5.0, logits_mean=mean)
    student = torch.tensor(own, requires_grad=True)
    value = DistillationLoss(settings).of_logits(student, torch.tensor(taught))
    expected = 0.7 * 25 * logits_reference(own / 5, taught / 5) / (3 if mean == "classes" else 1)
    assert value.item() == pytest.approx(expected, rel=TIGHT)
    other = torch.tensor(own, requires_grad=True)
    logs = (other / 5).log_softmax(-1), (torch.tensor(taught) / 5).log_softmax(-1)
    divergence = torch.nn.functional.kl_div(*logs, log_target=True, reduction="batchmean")
    (slope,) = torch.autograd.grad(0.7 * 25 * divergence / (3 if mean == "classes" else 1), other)
    (found,) = torch.autograd.grad(value, student)
    assert torch.allclose(found, slope, rtol=1e-9)


def test_the_names_on_the_command_line_are_the_losses() -> None:
    assert set(LOSS_NAMES) == set(LOSSES)


@pytest.fixture
def sides() -> tuple[Captures, Captures]:
    return both_sides()


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("mask", [MASKS["odd lengths"], MASKS["a row of padding"]])
def test_the_sum_of_terms(name: str, mask: Array, sides: tuple[Captures, Captures]) -> None:
    student, teacher = sides
    draw = np.random.default_rng(0)
    own, taught = draw.normal(0, 1, (ROWS, 3)), draw.normal(0, 1, (ROWS, 3))
    score = score_reference(arrays(student.scores), arrays(teacher.scores), mask)
    maps = map_reference(arrays(student.scores), arrays(teacher.scores), mask)
    output = hidden_reference(arrays(student.outputs), arrays(teacher.outputs), mask)
    added = {
        "score": {"score": score},
        "map": {"map": maps},
        "output": {"output": output},
        "mha": {"mha": hidden_reference(arrays(student.mha), arrays(teacher.mha), mask)},
        "map+output": {"map": maps, "output": 0.3 * output},  # Eq. 8, SM1; β scales only a mix
        "logits": {},
    }
    hidden = hidden_reference(arrays(student.hidden), arrays(teacher.hidden), mask)
    expected = {"logits": logits_reference(own, taught), **added[name]}
    if name != "logits":
        expected["hidden"] = hidden
    loss = DistillationLoss(distillation(name, beta=0.3))
    terms = loss.terms(student, teacher, torch.tensor(own), torch.tensor(taught), torch.tensor(mask))
    assert {term: value.item() for term, value in terms.items()} == pytest.approx(expected, rel=TIGHT)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_it_requests_the_captures_that_it_reads(name: str, sides: tuple[Captures, Captures]) -> None:
    loss = DistillationLoss(distillation(name, beta=0.3))
    expected = {
        "score": {"scores"},
        "map": {"scores"},
        "output": {"outputs"},
        "mha": {"mha"},
        "map+output": {"scores", "outputs"},
        "logits": set(),
    }
    assert loss.captures == expected[name] | ({"hidden"} if name != "logits" else set())
    assert loss.captures <= {TERMS[term].capture for term in TERMS}


@pytest.mark.parametrize("temperature", [5.0, 10.0, 20.0])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_temperature_divides_the_scores_of_both_sides(mask: Array, temperature: float) -> None:
    """Table 1: the KL of softmax(score / τ), without the factor τ²."""
    draw = np.random.default_rng(0)
    shape = (ROWS, HEADS, LENGTH, LENGTH)
    student, teacher = ([draw.normal(0, 3, shape) for _ in range(LAYERS)] for _ in range(2))
    expected = map_reference([x / temperature for x in student], [x / temperature for x in teacher], mask)
    own, taught = ([torch.tensor(x) for x in side] for side in (student, teacher))
    assert map_loss(own, taught, torch.tensor(mask), temperature).item() == pytest.approx(
        expected, rel=TIGHT, abs=1e-15
    )


def test_the_settings_reach_the_terms(sides: tuple[Captures, Captures]) -> None:
    student, teacher = sides
    mask = torch.ones(ROWS, LENGTH)
    logits = torch.zeros(ROWS, 2)

    def terms(**changes: Any) -> dict[str, float]:
        loss = DistillationLoss(distillation("map+output", beta=0.3, **changes))
        return {name: value.item() for name, value in loss.terms(student, teacher, logits, logits, mask).items()}

    plain, turned = terms(), terms(mix="SM2")
    assert turned["output"] == pytest.approx(plain["output"] / 0.3), "Eq. 8, SM2: output + β·map"
    assert turned["map"] == pytest.approx(plain["map"] * 0.3)
    colder = map_loss(student.scores, teacher.scores, mask, temperature=5.0).item()
    assert terms(temperature=5.0) == pytest.approx(plain | {"map": colder})
    assert len(student.hidden) == LAYERS + 1
    for chosen, indices in {(0,): [0], (-1,): [LAYERS], (-1, -3): [LAYERS, LAYERS - 2], (1, 3): [1, 3]}.items():
        own, taught = ([side.hidden[index] for index in indices] for side in (student, teacher))
        expected = hidden_loss(own, taught, mask).item()
        assert terms(hidden_layers=list(chosen)) == pytest.approx(plain | {"hidden": expected}), "only hidden states"
    assert terms(hidden_layers=list(range(-LAYERS - 1, 0))) == pytest.approx(plain), "all states, from the top"


@pytest.mark.parametrize("padding", ["ignored", "counted"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_a_batch_is_the_mean_of_its_parts_weighted_by_their_counts(name: str, padding: str) -> None:
    """Training on several devices needs this, because each device has a part of the batch."""
    loss = DistillationLoss(distillation(name, padding=padding))
    shapes = {"hidden": (ROWS, LENGTH, SIZE), "scores": (ROWS, HEADS, LENGTH, LENGTH)}
    shapes |= {"outputs": shapes["hidden"], "mha": shapes["hidden"]}
    sides = [{field: tensors(layers(seed, shapes[field])) for field in loss.captures} for seed in (8, 9)]
    logits = [torch.randn(ROWS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    mask = torch.tensor(MASKS["odd lengths"])

    def terms(rows: slice) -> dict[str, float]:
        student, teacher = (Captures(**{f: [x[rows] for x in xs] for f, xs in side.items()}) for side in sides)
        values = loss.terms(student, teacher, logits[0][rows], logits[1][rows], mask[rows])
        return {term: value.item() for term, value in values.items()}

    def counts(rows: slice) -> dict[str, float]:
        return {term: value.item() for term, value in loss.counts(mask[rows]).items()}

    whole, parts = slice(0, ROWS), PARTS
    for term, value in terms(whole).items():
        weighted = sum(terms(part)[term] * counts(part)[term] for part in parts)
        assert counts(whole)[term] == sum(counts(part)[term] for part in parts)
        assert value == pytest.approx(weighted / counts(whole)[term], rel=TIGHT)
