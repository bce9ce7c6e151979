"""The median stopping rule, which stops trainings that are unlikely to be the best (Golovin et al., Vizier, KDD 2017).

A training is stopped at an evaluation if its best dev score so far is below the median of the best scores of the others
at the same share of their steps (section 3.2.1). It is not stopped in the first quarter, or if fewer than four others
have come as far.
"""

from collections.abc import Sequence
from statistics import median

Curve = Sequence[tuple[float, float]]
"""(share of the steps, dev score) of each evaluation, in order."""

_SPARED = 0.25
_RIVALS = 4


def hopeless(own: Curve, others: Sequence[Curve]) -> str | None:
    """The reason why a training should stop; None: it should continue.

    Args:
        own: the evaluations of the training.
        others: the evaluations of its competitors, which may be running, finished or stopped.
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
    return f"dev score {best:.2f} after {share:.0%} of the steps, but the median of {len(rivals)} runs is {middle:.2f}"


def _best(curve: Curve, share: float) -> float:
    return max(score for at, score in curve if at <= share)
