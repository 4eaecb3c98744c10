"""The theorem about gRDA and directional pruning holds, and fails with a wrong threshold law."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import theorem
from dirprune import GRDA, soft_threshold

Factory = Callable[[list[nn.Parameter], float, float, float], Optimizer]
TIME = 15.0


def holds(logistic: bool, optimizer: Factory = GRDA) -> bool:
    """Whether gRDA's solution follows the theorem, up to noise proportional to sqrt(gamma)."""
    given = theorem.problem(separated=True, logistic=logistic)
    ends = [theorem.run(given, rate, TIME, optimizer) for rate in theorem.RATES]
    noise = [end.distance(end.linearised) for end in ends]
    return theorem.scales_like_sqrt(noise) and max(noise) < 0.03


@pytest.mark.parametrize("logistic", [False, True])
def test_distance_beyond_finite_time_scales_like_sqrt_gamma(logistic: bool) -> None:
    assert holds(logistic)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda p, rate, c, mu: GRDA(p, rate, c, mu + 0.1), id="mu"),
        pytest.param(
            lambda p, rate, c, mu: GRDA(p, rate, c / TIME**0.1, mu + 0.1), id="mu, same end"
        ),
        pytest.param(
            lambda p, rate, c, mu: GRDA(p, rate, c * math.sqrt(rate / 0.02), mu), id="gamma"
        ),
        pytest.param(lambda p, rate, c, mu: GRDA(p, rate, 1.05 * c, mu), id="c"),
    ],
)
def test_a_wrong_threshold_law_is_detected(wrong: Factory) -> None:
    assert not holds(logistic=False, optimizer=wrong)


def test_the_valley_minimum_is_optimal() -> None:
    end = theorem.run(theorem.problem(separated=False, seeds=3), 0.04, 7.5)
    x, flat = theorem.valley_minimum(end), end.problem.flat
    step = x - end.sgd
    torch.testing.assert_close(flat(step), step, atol=1e-6, rtol=0)
    # No other point of the floor has a smaller value.
    generator = torch.Generator().manual_seed(2)
    best = 0.5 * step.square().sum(1) + end.lam * x.abs().sum(1)
    for size in (1e-3, 1e-2, 1e-1):
        other = flat(torch.randn(x.shape, generator=generator, dtype=x.dtype)) * size + x
        value = 0.5 * (other - end.sgd).square().sum(1) + end.lam * other.abs().sum(1)
        assert bool((value > best).all())
    # It differs from directional pruning and from the soft threshold.
    for simple in (end.pruned(), soft_threshold(end.sgd, end.lam)):
        assert float((x - simple).norm()) > 1e-3


@pytest.mark.slow
def test_the_page_of_the_gallery_runs(tmp_path: Path) -> None:
    theorem.main(tmp_path / "gallery" / "theorem.html")
    page = (tmp_path / "gallery" / "theorem.html").read_text()
    assert "directional pruning" in page
    assert "Plotly.newPlot" in page
