"""The median stopping rule: which trainings have no hope of being the best (Golovin et al., Vizier, KDD 2017, 3.2.1).

A training is stopped at an evaluation if its best dev score so far is below the median of what the others had reached
at the same share of their steps. It is spared in the first quarter, and where fewer than four others came as far.
"""

from collections.abc import Sequence
from statistics import median

Curve = Sequence[tuple[float, float]]
"""(share of the steps, dev score) of each evaluation, in order."""

_SPARED = 0.25
_RIVALS = 4


def hopeless(own: Curve, others: Sequence[Curve]) -> str | None:
    """Why a training should stop, or None.

    Args:
        own: its evaluations.
        others: those of the trainings that it competes with, running, finished or stopped.
    """
    if not own or own[-1][0] < _SPARED:
        return None
    share = own[-1][0]
    rivals = [_best(curve, share) for curve in others if curve and curve[0][0] <= share <= curve[-1][0]]
    if len(rivals) < _RIVALS:
        return None
    best, middle = _best(own, share), median(rivals)
    if best >= middle:
        return None
    return (
        f"dev score {best:.2f} after {share:.0%} of the steps, where the median of {len(rivals)} runs is {middle:.2f}"
    )


def _best(curve: Curve, share: float) -> float:
    return max(score for at, score in curve if at <= share)
