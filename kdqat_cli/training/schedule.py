"""The learning rate of each step, as a share of the peak rate: a function of the step and of the dev scores before it.

    linear    rises from 0 over `warmup` of the steps, then falls to 0 at the last step (Kim et al.'s public code)
    plateau   halves when the score has not risen by 0.1 for 10 evaluations, and at the soonest 8 evaluations after the
              last halving; the training ends after 30 such evaluations, or after the 11th halving (Polino et al.'s
              public code, for the convolutional networks)
    decay     halves after each evaluation from the one on which the score falls, or from the 8th on (Polino et al.'s
              public code, for translation)
    thirds    falls to a fifth at 30, 60 and 80 % of the steps (Zagoruyko and Komodakis, 2016: epochs 60, 120 and 160 of
              200, for wide residual networks)

Because nothing else is remembered, a training that is resumed has the rates that it would have had.
"""

from collections.abc import Sequence

from kdqat_cli.config import Training

_RISE = 0.1 - 1e-9  # percent; an error of 0.001, whatever rounding has made of it
_PATIENCE, _PAUSE = 10, 8  # evaluations
_STALE, _HALVINGS = 30, 11
_DECAYS_FROM = 8
_FALLS = (0.3, 0.6, 0.8)


def share_of_rate(settings: Training, step: int, steps: int, scores: Sequence[float]) -> float:
    """Learning rate of a step as a share of the peak rate.

    Args:
        settings: of which `schedule` and `warmup` are read.
        step: counted from 0.
        steps: of the whole training.
        scores: of each evaluation before the step.
    """
    progress = step / steps
    if settings.schedule == "linear":
        return progress / settings.warmup if progress < settings.warmup else (1 - progress) / (1 - settings.warmup)
    if settings.schedule == "thirds":
        return 0.2 ** sum(progress >= fall for fall in _FALLS)
    if settings.schedule == "decay":
        first = next((n for n in range(1, len(scores)) if scores[n] < scores[n - 1]), len(scores))
        return 0.5 ** max(0, len(scores) - min(first, _DECAYS_FROM - 1))
    return 0.5 ** _plateaus(scores)[0]


def ends_early(settings: Training, scores: Sequence[float]) -> bool:
    """Whether a training ends before its last step; for `scores` see `share_of_rate`."""
    if settings.schedule != "plateau":
        return False
    halvings, stale = _plateaus(scores)
    return stale > _STALE or halvings > _HALVINGS


def _plateaus(scores: Sequence[float]) -> tuple[int, int]:
    """How often the rate was halved, and evaluations since the score last rose."""
    best, stale, halvings, since = float("-inf"), 0, 0, _PAUSE
    for score in scores:
        since += 1
        if score >= best + _RISE:
            best, stale = score, 0
            continue
        stale += 1
        if stale >= _PATIENCE and since >= _PAUSE:
            halvings, since = halvings + 1, 0
    return halvings, stale
