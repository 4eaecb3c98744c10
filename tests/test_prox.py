"""Laws of the proximal operators."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dirprune import soft_threshold

tensors = arrays(
    np.float64, array_shapes(max_dims=3, max_side=9), elements=st.floats(-1e6, 1e6)
).map(torch.from_numpy)
levels = st.floats(0, 1e6)


def test_minimises_its_objective() -> None:
    v = torch.linspace(-2, 2, 41, dtype=torch.float64)
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    objective = 0.7 * x.abs() + 0.5 * (x - v[:, None]) ** 2
    best = x[objective.argmin(dim=1)]
    torch.testing.assert_close(soft_threshold(v, 0.7), best, atol=1e-3, rtol=0)


@given(tensors, levels)
def test_moreau_the_remainder_lies_in_the_box_and_touches_it_where_alive(
    v: torch.Tensor, g: float
) -> None:
    w = soft_threshold(v, g)
    remainder = v - w
    assert (remainder.abs() <= g * (1 + 1e-9) + 1e-9).all()
    alive = w != 0
    torch.testing.assert_close(remainder[alive], g * v[alive].sign(), rtol=1e-9, atol=1e-9)


@given(tensors, levels)
def test_is_odd_shrinks_and_never_changes_sides(v: torch.Tensor, g: float) -> None:
    w = soft_threshold(v, g)
    assert torch.equal(soft_threshold(-v, g), -w)
    assert (w.abs() <= v.abs()).all()
    assert (w * v >= 0).all()
    assert torch.equal(w == 0, v.abs() <= g)


@given(tensors, levels, levels)
def test_thresholds_add_up(v: torch.Tensor, a: float, b: float) -> None:
    twice = soft_threshold(soft_threshold(v, a), b)
    torch.testing.assert_close(twice, soft_threshold(v, a + b), rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(tensors, st.floats(-1e3, 1e3), levels)
def test_is_non_expansive(v: torch.Tensor, shift: float, g: float) -> None:
    moved = soft_threshold(v + shift, g) - soft_threshold(v, g)
    assert (moved.abs() <= abs(shift) * (1 + 1e-9) + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 7, 8, 16, 33, 1000])
@pytest.mark.parametrize("g", [0.0, 0.5])
def test_zeros_are_positive_in_every_lane(dtype: torch.dtype, size: int, g: float) -> None:
    inside = torch.linspace(-g, g, size).to(dtype)
    for v in (inside, torch.full((size,), -0.0, dtype=dtype), torch.zeros(size, dtype=dtype)):
        w = soft_threshold(v, g)
        assert (w == 0).all()
        assert not w.signbit().any()


def test_zero_level_is_the_identity_and_infinity_stays() -> None:
    v = torch.tensor([-math.inf, -1.0, 0.0, 2.0, math.inf])
    assert torch.equal(soft_threshold(v, 0.0), v)
    assert torch.equal(soft_threshold(v, 3.0).isinf(), v.isinf())
    assert soft_threshold(torch.tensor([math.nan]), 1.0).isnan().all()


@pytest.mark.parametrize("g", [-1.0, math.nan, math.inf])
def test_bad_levels_are_refused(g: float) -> None:
    with pytest.raises(ValueError, match="threshold g must be at least 0 and finite"):
        soft_threshold(torch.ones(1), g)
