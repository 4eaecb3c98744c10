"""Laws of the proximal operators."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dirprune import soft_threshold
from dirprune.prox import invert_threshold, power_threshold

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
def test_moreau_decomposition(v: torch.Tensor, g: float) -> None:
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


powers = st.one_of(st.floats(1, 20), st.sampled_from([1.0, 2.0, 3.0, math.inf]))


def mp_threshold(v: float, g: float, p: float) -> float:
    """From the definition, with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return float((Decimal(v) ** Decimal(p) - Decimal(g) ** Decimal(p)) ** (1 / Decimal(p)))


@given(tensors, levels, powers)
def test_power_threshold_is_odd_monotone_and_between_soft_and_hard(
    v: torch.Tensor, g: float, p: float
) -> None:
    w = power_threshold(v, g, p)
    assert torch.equal(power_threshold(-v, g, p), -w)
    assert torch.equal(w == 0, v.abs() <= g)
    assert not w[w == 0].signbit().any()
    order = v.flatten().argsort()
    assert (w.flatten()[order].diff() >= -1e-9 * v.abs().max()).all()
    assert (w.abs() <= power_threshold(v, g, math.inf).abs()).all()
    assert (w.abs() * (1 + 1e-12) + 1e-300 >= soft_threshold(v, g).abs()).all()


@given(tensors, levels, powers)
def test_the_inverse_is_the_closest_preimage(v: torch.Tensor, g: float, p: float) -> None:
    w = power_threshold(v, g, p)
    back = invert_threshold(w, v, g, p)
    torch.testing.assert_close(back, v, rtol=1e-9, atol=1e-9)
    assert torch.equal(back[w == 0], v[w == 0])
    assert (invert_threshold(torch.zeros_like(v), v, g, p).abs() <= g).all()


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0, 8.0])
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e38])
def test_power_threshold_is_accurate_at_every_scale(power: float, scale: float) -> None:
    ratio = np.concatenate([np.linspace(1.00001, 3, 200), np.geomspace(3, 1e6, 50)])
    v = torch.from_numpy(ratio[ratio * scale < 3e38] * scale).float()
    g = float(np.float32(scale))
    exact = torch.tensor([mp_threshold(x, g, power) for x in v.tolist()], dtype=torch.float64)
    w = power_threshold(v, g, power).double()
    spacing = torch.from_numpy(np.spacing(exact.float().numpy())).double()
    near = 1 if power == 1 else 4
    assert ((w - exact).abs() <= near * spacing).all()


@pytest.mark.parametrize("power", [1.0, 1.2, 2.0, 3.0, 7.0, math.inf])
def test_the_neighbour_of_the_threshold_stays_nonzero(power: float) -> None:
    g = torch.rand(4000, generator=torch.Generator().manual_seed(0)) + 0.01
    for level in (g, g * 1e-39, g * 1e30):
        above = torch.nextafter(level, torch.tensor(math.inf))
        assert (power_threshold(above, level, power) > 0).all()
        assert (power_threshold(level, level, power) == 0).all()


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, math.inf])
def test_zero_level_infinity_and_nan(power: float) -> None:
    v = torch.tensor([-math.inf, -1.1, -0.0, 2.0, math.inf])
    assert torch.equal(power_threshold(v, 0.0, power), v)
    assert not power_threshold(v, 0.0, power)[2].signbit()
    assert power_threshold(torch.tensor([math.nan]), 0.5, power).isnan().all()
    assert power_threshold(v, 1.0, power).isinf().sum() == 2


@pytest.mark.parametrize("power", [0.99, 0.0, -1.0, math.nan])
def test_bad_powers_are_refused(power: float) -> None:
    with pytest.raises(ValueError, match="power must be at least 1"):
        power_threshold(torch.ones(1), 0.5, power)
    with pytest.raises(ValueError, match="power must be at least 1"):
        invert_threshold(torch.ones(1), torch.ones(1), 0.5, power)
