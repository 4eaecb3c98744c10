"""Search for the penalty strength with which a method reaches a target sparsity."""

import math
from collections.abc import Callable, Sequence

CalibrationTrial = tuple[float, float]
"""A strength c > 0 and the resulting sparsity in [0, 1]."""


def calibrate(
    sparsity_at: Callable[[float], float],
    start: float,
    target: float,
    *,
    tolerance: float = 0.01,
    most: int = 5,
) -> list[CalibrationTrial]:
    """Try strengths until the sparsity is close enough or the trials are used up.

    Args:
        sparsity_at: Trains with a strength and returns the sparsity, which should grow with it.
        start: First strength, above 0.
        target: Target sparsity, in (0, 1).
        tolerance: Largest accepted distance from the target.
        most: Maximum number of trials, at least 1.

    Returns:
        All trials, in the order in which they were run.

    Example:
        >>> trials = calibrate(lambda c: c**2 / (1 + c**2), start=1.0, target=0.9)
        >>> [round(sparsity, 2) for c, sparsity in trials]
        [0.5, 0.9]
    """
    trials: list[CalibrationTrial] = []
    c = start
    while True:
        # Few digits, because the value is part of a folder's name.
        c = float(f"{c:.4g}")
        trials.append((c, sparsity_at(c)))
        if abs(trials[-1][1] - target) <= tolerance or len(trials) == most:
            return trials
        c = next_strength(trials, target)


def closest(trials: Sequence[CalibrationTrial], target: float) -> CalibrationTrial:
    """Return the trial whose sparsity is nearest to the target."""
    return min(trials, key=lambda trial: abs(trial[1] - target))


def next_strength(trials: Sequence[CalibrationTrial], target: float) -> float:
    r"""Choose the next strength to try.

    The log odds of a zero, :math:`\log s / (1 - s)`, are modelled as linear in :math:`\log c`:
    between the nearest trials on both sides of the target if they exist, otherwise through the
    last two trials or with slope 2. An interpolated step stays 10 % away from the ends of the
    interval. An extrapolated step changes the strength by a factor between 1.2 and 5: in networks
    with normalisation, a strength that is a few times too large gives nearly 100 % zeros, which
    is a poor point for the next step.

    Args:
        trials: At least one.
        target: Target sparsity, in (0, 1).

    Returns:
        A strength that has not been tried.

    Example:
        >>> round(next_strength([(1.0, 0.5), (100.0, 0.99)], 0.9), 3)
        9.043
    """
    points = [(math.log(c), _log_odds(s)) for c, s in trials]
    wanted = _log_odds(target)
    below = max((p for p in points if p[1] < wanted), default=None)
    above = min((p for p in points if p[1] >= wanted), default=None)
    if below and above and below[0] < above[0]:
        share = (wanted - below[1]) / (above[1] - below[1])
        return math.exp(below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0]))
    x, y = below or above or points[-1]
    step = (wanted - y) / _slope(points)
    step = math.copysign(min(max(abs(step), math.log(1.2)), math.log(5)), wanted - y)
    return math.exp(x + step)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    if len(points) > 1:
        (x1, y1), (x2, y2) = points[-2:]
        if x1 != x2 and (y2 - y1) / (x2 - x1) > 0.1:
            return (y2 - y1) / (x2 - x1)
    return 2.0


def _log_odds(share: float) -> float:
    inside = min(max(share, 1e-4), 1 - 1e-4)
    return math.log(inside / (1 - inside))
