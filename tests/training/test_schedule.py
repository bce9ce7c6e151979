"""Schedules of the learning rate, by hand and against the rules of the public codes, step by step."""

import random

import pytest

from kdqat_cli.config import Params, ScheduleName, Training
from kdqat_cli.params import resolve
from kdqat_cli.training.schedule import ends_early, share_of_rate


def training(schedule: ScheduleName, warmup: float = 0.1) -> Training:
    student = resolve("rte", Params()).student
    return student.model_copy(update={"schedule": schedule, "warmup": warmup})


def test_the_rate_of_rte_by_hand() -> None:
    """234 steps, 23.4 of them warm-up. Rounded up to 24 steps, the rate at step 23 would be 2.5 % smaller."""
    linear = training("linear")
    shares = [share_of_rate(linear, step, 234, []) for step in range(235)]
    assert shares[0] == 0
    assert shares[23] == pytest.approx(23 / 23.4, rel=1e-12)
    assert shares[23] - 23 / 24 == pytest.approx(0.0246, abs=1e-4)
    assert shares[24] == pytest.approx((234 - 24) / (234 - 23.4), rel=1e-12)
    assert shares[234] == 0
    assert share_of_rate(training("linear", 0.0), 0, 10, []) == 1, "without a warm-up the first step has the whole rate"


def test_thirds_falls_to_a_fifth_as_for_wide_residual_networks() -> None:
    """200 epochs of 10 steps: ×0.2 at the epochs 60, 120 and 160."""
    shares = [share_of_rate(training("thirds"), epoch * 10, 2000, []) for epoch in range(200)]
    assert [shares.count(0.2**power) for power in range(4)] == [60, 60, 40, 40]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("scores", "halvings"),
    [
        ([], 0),
        ([1, 2, 3], 0),
        ([1, 2, 1.5], 1),
        ([1, 2, 1.5, 9, 9], 3),
        ([1, 2, 3, 4, 5, 6, 7], 0),
        ([1, 2, 3, 4, 5, 6, 7, 8], 1),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 2),
    ],
)
def test_decay_begins_when_the_score_falls_or_at_the_eighth_evaluation(scores: list[float], halvings: int) -> None:
    assert share_of_rate(training("decay"), 5, 10, scores) == 0.5**halvings


def rule(errors: list[float]) -> tuple[int, bool]:
    """The public code's rule for images, in its own form: errors in [0, 1], one per epoch."""
    best, since_best, since_halving, halvings, ends = 2.0, 0, 8, 0, False
    for error in errors:
        since_halving += 1
        if best - error >= 0.001 - 1e-12:
            best, since_best = error, 0
        else:
            since_best += 1
            if since_best >= 10 and since_halving >= 8:
                halvings, since_halving = halvings + 1, 0
        ends = since_best > 30 or halvings > 11
    return halvings, ends


def test_a_plateau_by_hand() -> None:
    plateau = training("plateau")
    flat = [50.0] * 11
    assert share_of_rate(plateau, 0, 10, flat[:10]) == 1, "nine evaluations without a rise"
    assert share_of_rate(plateau, 0, 10, flat) == 0.5
    assert share_of_rate(plateau, 0, 10, [*flat, *[50.0] * 7]) == 0.5
    assert share_of_rate(plateau, 0, 10, [*flat, *[50.0] * 8]) == 0.25
    assert share_of_rate(plateau, 0, 10, [50.0 + 0.1 * n for n in range(40)]) == 1
    assert not ends_early(plateau, [50.0] * 31)
    assert ends_early(plateau, [50.0] * 32)
    assert not ends_early(training("linear"), [50.0] * 99)


def test_a_plateau_against_the_rule() -> None:
    plateau, draw = training("plateau"), random.Random(1)
    ended = 0
    for _ in range(200):
        rise = draw.choice([0.0, 0.02, 0.5])
        scores = [round(min(99.0, 40 + rise * n + draw.uniform(-0.3, 0.3)), 2) for n in range(draw.randrange(150))]
        halvings, ends = rule([1 - score / 100 for score in scores])
        assert share_of_rate(plateau, 0, 10, scores) == 0.5**halvings
        assert ends_early(plateau, scores) == ends
        ended += ends
    assert 5 < ended < 195
