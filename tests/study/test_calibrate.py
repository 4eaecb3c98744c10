"""Calibration finds the strength of a method that gives a sparsity."""

import math
from collections.abc import Callable

import pytest

from dirprune.study.calibrate import calibrate, closest, next_strength


@pytest.mark.parametrize("target", [0.3, 0.9, 0.97])
@pytest.mark.parametrize("start", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(
    "law",
    [
        lambda c: c / (1 + c),
        lambda c: 1 - math.exp(-3 * c),
        lambda c: math.inf if c > 10 else c / (0.02 + c),
    ],
    ids=["odds", "exponential", "diverging"],
)
def test_calibration_reaches_the_target(
    law: Callable[[float], float], start: float, target: float
) -> None:
    trials = calibrate(law, start, target, most=8)
    c, sparsity = closest(trials, target)
    assert sparsity == law(c)
    assert abs(sparsity - target) <= 0.01
    assert len({c for c, _ in trials}) == len(trials)
    assert all(abs(s - target) > 0.01 for _, s in trials[:-1])


def test_calibration_ends_if_the_target_is_unreachable() -> None:
    trials = calibrate(lambda c: 0.2 if c < 1 else 0.99, 0.5, 0.9, most=5)
    assert len(trials) == 5
    assert closest(trials, 0.9)[1] == 0.99
    lower, upper = (max, min)
    for i in range(2, 5):  # it stays inside what it has bracketed
        below = lower(c for c, s in trials[:i] if s < 0.9)
        above = upper((c for c, s in trials[:i] if s > 0.9), default=math.inf)
        assert below < next_strength(trials[:i], 0.9) < above
