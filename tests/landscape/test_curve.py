"""Bezier curves, against de Casteljau's construction and quadrature of another library."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from dirprune.landscape import Curve, Point, straight_line
from dirprune.landscape.connectivity.curve import bent_line, bernstein


def through(*control: Tensor) -> Curve:
    first, *inner, last = control
    bends = torch.stack(inner) if inner else first.new_empty(0, len(first))
    return Curve(Point(first, {}), Point(last, {}), bends)


def de_casteljau(control: list[Tensor], t: float) -> Tensor:
    while len(control) > 1:
        control = [(1 - t) * p + t * q for p, q in pairwise(control)]
    return control[0]


@given(st.integers(0, 6), st.floats(0, 1))
def test_weights_are_a_mean(degree: int, t: float) -> None:
    weights = bernstein(degree, t)
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    mean = sum(k * weight for k, weight in enumerate(weights))
    assert mean == pytest.approx(degree * t)


@pytest.mark.parametrize("bends", [0, 1, 2, 5])
def test_points_of_the_curve(bends: int) -> None:
    control = [torch.randn(7, dtype=torch.float64) for _ in range(bends + 2)]
    curve = through(*control)
    assert curve.degree == bends + 1
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        torch.testing.assert_close(curve.at(t), de_casteljau(control, t), atol=1e-14, rtol=0)
    assert torch.equal(curve.at(0.0), control[0])
    assert torch.equal(curve.at(1.0), control[-1])


@pytest.mark.parametrize("bends", [1, 2, 4])
def test_length_against_quadrature(bends: int) -> None:
    control = [torch.randn(5, dtype=torch.float64) for _ in range(bends + 2)]

    def speed(t: float) -> float:
        ts = torch.tensor(t, dtype=torch.float64)
        derivative = torch.autograd.functional.jacobian(lambda s: de_casteljau(control, s), ts)
        return float(derivative.norm())

    expected = quad(speed, 0, 1, epsabs=1e-12, epsrel=1e-12)[0]
    assert through(*control).length == pytest.approx(expected, rel=1e-11)


def test_length_of_a_parabola_and_of_lines() -> None:
    parabola = through(*torch.tensor([[-1.0, 1.0], [0.0, -1.0], [1.0, 1.0]]))  # y = x^2
    assert parabola.length == pytest.approx(math.sqrt(5) + math.asinh(2) / 2, rel=1e-12)
    a, b = Point(torch.zeros(4), {}), Point(torch.ones(4), {})
    assert straight_line(a, b).length == pytest.approx(2, rel=1e-14)
    for bends in (1, 3):
        line = bent_line(a, b, bends)
        assert line.length == pytest.approx(line.distance, rel=1e-7)
        torch.testing.assert_close(line.at(0.3), torch.full((4,), 0.3))
    back = through(*torch.tensor([[0.0], [2.0], [0.0]]))  # stands still at its turning point
    assert back.length == pytest.approx(2.0, rel=1e-3)
    assert back.distance == 0
    assert np.isfinite(through(*torch.zeros(3, 2)).length)


def test_a_curve_needs_a_bend() -> None:
    a, b = Point(torch.zeros(1), {}), Point(torch.ones(1), {})
    with pytest.raises(ValueError, match="at least 1 bend, got 0"):
        bent_line(a, b, 0)
