"""The learning rate of each step as a share of the peak rate, computed from the step and the dev scores before it.

    linear    rises from 0 during the share `warmup` of the steps, then falls to 0 at the last step (public code of Kim
              et al.)
    plateau   halves if the score has not risen by 0.1 for 10 evaluations, but at the earliest 8 evaluations after the
              last halving; the training ends after 30 evaluations without a rise, or after more than 11 halvings
              (public code of Polino et al. for convolutional networks)
    decay     halves after each evaluation, from the first on which the score falls, or else from the 8th (public code
    of
              Polino et al. for translation)
    thirds    falls to a fifth at 30, 60 and 80 % of the steps (Zagoruyko and Komodakis, 2016, for wide residual
              networks: epochs 60, 120 and 160 of 200)

The rate depends on nothing else, so a resumed training has the same rates.
"""

from collections.abc import Sequence

from kdqat_cli.config import Training

_RISE = 0.1 - 1e-9  # percent, that is an error of 0.001, with a tolerance for rounding
_PATIENCE, _PAUSE = 10, 8  # evaluations
_STALE, _HALVINGS = 30, 11
_DECAYS_FROM = 8
_FALLS = (0.3, 0.6, 0.8)


def share_of_rate(settings: Training, step: int, steps: int, scores: Sequence[float]) -> float:
    """The learning rate of a step as a share of the peak rate.

    Args:
        settings: `schedule` and `warmup` are used.
        step: the step, counted from 0.
        steps: number of steps of the training.
        scores: the scores of all evaluations before the step.
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
    """Whether a training ends before its last step; `share_of_rate` explains `scores`."""
    if settings.schedule != "plateau":
        return False
    halvings, stale = _plateaus(scores)
    return stale > _STALE or halvings > _HALVINGS


def _plateaus(scores: Sequence[float]) -> tuple[int, int]:
    """The number of halvings of the rate, and the number of evaluations since the score last rose."""
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
