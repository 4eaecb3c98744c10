"""Densities and their bounds for matrices with known eigenpairs."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dirprune.landscape import (
    MatrixOperator,
    directional_density,
    rayleigh_quotient,
    spectral_density,
)


def matrix_with(values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A dense matrix with these eigenvalues, and its eigenvectors as columns."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(square).Q
    matrix = (vectors * values) @ vectors.mT
    return (matrix + matrix.mT) / 2, vectors


def share(values: Tensor, vectors: Tensor, d: Tensor, inside: Tensor) -> float:
    energy = (vectors.mT @ d) ** 2
    return float(energy[inside].sum() / energy.sum())


spectra = st.lists(
    st.one_of(st.just(0.0), st.floats(-1, 20), st.floats(-1e-3, 1e-3)), min_size=2, max_size=30
)


@settings(max_examples=200)
@given(spectra, st.integers(1, 12), st.floats(-2, 21), st.integers(0, 99), st.booleans())
def test_the_exact_share_lies_between_the_bounds(
    spectrum: list[float], steps: int, t: float, seed: int, at_eigenvalue: bool
) -> None:
    values = torch.tensor(spectrum, dtype=torch.float64)
    if at_eigenvalue:
        t = spectrum[seed % len(spectrum)]
    matrix, vectors = matrix_with(values, seed)
    d = torch.randn(len(values), dtype=torch.float64) * 10 ** (2 * torch.rand(1).double() - 1)
    density = directional_density(MatrixOperator(matrix), d, steps)
    low, high = density.cumulative(t)
    rounding = 1e-9
    # Rounding decides on which side of the threshold an equal eigenvalue is counted.
    assert low - 1e-7 <= share(values, vectors, d, values <= t + rounding)
    assert share(values, vectors, d, values < t - rounding) <= high + 1e-7
    assert 0 <= low <= high <= 1


@settings(max_examples=60)
@given(st.integers(0, 99), st.floats(-1, 6), st.floats(0, 3))
def test_the_exact_share_of_a_band_lies_between_the_bounds(
    seed: int, low: float, width: float
) -> None:
    torch.manual_seed(seed)
    values = torch.randn(40, dtype=torch.float64) ** 3
    matrix, vectors = matrix_with(values, seed)
    d = torch.randn(40, dtype=torch.float64)
    density = directional_density(MatrixOperator(matrix), d, 7)
    inside = (values >= low) & (values <= low + width)
    lower, upper = density.between(low, low + width)
    assert lower - 1e-9 <= share(values, vectors, d, inside) <= upper + 1e-9
    lower, upper = density.above(low)
    assert lower - 1e-9 <= share(values, vectors, d, values > low) <= upper + 1e-9
    assert density.between(-math.inf, math.inf) == (1.0, 1.0)
    assert density.between(low, math.inf)[1] >= density.above(low)[0]


def test_bounds_tighten_with_every_step_and_become_exact() -> None:
    values = torch.linspace(0, 1, 24, dtype=torch.float64) ** 4
    matrix, vectors = matrix_with(values)
    d, t = torch.randn(24, dtype=torch.float64), 0.1
    op = MatrixOperator(matrix)
    bounds = [directional_density(op, d, steps).cumulative(t) for steps in range(1, 25)]
    for (low, high), (tighter_low, tighter_high) in pairwise(bounds):
        assert tighter_low >= low - 1e-9
        assert tighter_high <= high + 1e-9
    assert bounds[2][1] - bounds[2][0] > 0.1
    truth = share(values, vectors, d, values <= t)
    assert bounds[-1] == pytest.approx((truth, truth), abs=1e-9)


def test_bounds_do_not_separate_zero_from_tiny() -> None:
    """Most eigenvalues are 1e-9, not 0: the bounds must admit shares above 0, but none above 1."""
    values = torch.tensor([1e-9] * 190 + [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10], dtype=torch.float64)
    matrix, vectors = matrix_with(values)
    d = torch.randn(200, dtype=torch.float64)
    density = directional_density(MatrixOperator(matrix), d, 6)
    low, high = density.above(0.0)
    assert low < 0.5 < 0.9 < high
    truth = share(values, vectors, d, values > 0.5)
    low, high = density.above(0.5)
    assert low <= truth <= high
    assert high - low < 0.1


def test_the_bounds_are_optimal() -> None:
    """The quadrature with the threshold as a node has the same moments and attains the bounds."""
    values = torch.linspace(-1, 2, 15, dtype=torch.float64)
    matrix, _ = matrix_with(values)
    d = torch.randn(15, dtype=torch.float64)
    density = directional_density(MatrixOperator(matrix), d, 4)
    low, high = density.cumulative(0.3)
    # The gap is the Christoffel function: the least integral of p^2 with p(t) = 1, degree 4.
    moments = [float(d @ torch.linalg.matrix_power(matrix, n) @ d / (d @ d)) for n in range(9)]
    gram = torch.tensor([[moments[i + j] for j in range(5)] for i in range(5)]).double()
    ones = 0.3 ** torch.arange(5, dtype=torch.float64)
    christoffel = 1 / float(ones @ torch.linalg.solve(gram, ones))
    assert high - low == pytest.approx(christoffel, rel=1e-4)


def test_a_direction_of_few_eigenvectors_is_exact_after_as_many_products() -> None:
    values = torch.arange(50, dtype=torch.float64)
    matrix, vectors = matrix_with(values)
    d = 3 * vectors[:, 10] + 4 * vectors[:, 40]
    density = directional_density(MatrixOperator(matrix), d, 50)
    assert density.beta == 0
    torch.testing.assert_close(density.nodes, torch.tensor([10.0, 40.0]).double())
    torch.testing.assert_close(density.weights, torch.tensor([0.36, 0.64]).double())
    assert density.norm == pytest.approx(5)
    assert density.above(25.0) == pytest.approx((0.64, 0.64))
    assert density.rayleigh == pytest.approx(0.36 * 10 + 0.64 * 40)


def test_rayleigh_quotient() -> None:
    matrix, _ = matrix_with(torch.linspace(-3, 9, 20, dtype=torch.float64))
    d = torch.randn(20, dtype=torch.float64)
    op = MatrixOperator(matrix)
    expected = float(d @ matrix @ d / (d @ d))
    assert rayleigh_quotient(op, d) == pytest.approx(expected)
    assert directional_density(op, d, 5).rayleigh == pytest.approx(expected)


@pytest.mark.parametrize("spectrum", ["outliers", "continuous", "few"])
def test_the_density_of_eigenvalues_converges_to_the_truth(spectrum: str) -> None:
    n = 200
    values = {
        "outliers": torch.cat([torch.zeros(n - 4), torch.tensor([5.0, 6, 7, 9])]),
        "continuous": torch.linspace(-1, 1, n),
        "few": torch.arange(n) % 3 * 1.0,
    }[spectrum].double()
    matrix, _ = matrix_with(values)
    density = spectral_density(MatrixOperator(matrix), probes=40, steps=30)
    for t in (-0.52, 0.3, 1.5, 8.0):
        found, error = density.cumulative(t)
        truth = float((values <= t).double().mean())
        slack = 1 / 30 if spectrum == "continuous" else 1e-9  # what 30 nodes can resolve
        assert abs(found - truth) <= 4 * error + slack, t
    trace, error = density.mean(lambda nodes: nodes)
    assert abs(trace - float(values.mean())) <= 4 * error + 1e-9
    grid = torch.linspace(-5, 15, 2001)
    assert float(density.smooth(grid, 0.2).sum()) * 0.01 == pytest.approx(1, abs=1e-3)


def test_at_full_steps_a_probe_is_exact() -> None:
    values = torch.linspace(-1, 3, 12, dtype=torch.float64)
    matrix, vectors = matrix_with(values)
    density = spectral_density(MatrixOperator(matrix), probes=1, steps=12, seed=3)
    z = torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(density.nodes[0], values)
    torch.testing.assert_close(density.weights[0], (vectors.mT @ z) ** 2 / (z @ z))
    assert math.isnan(density.cumulative(0.0)[1])


def test_a_low_rank_matrix_exhausts_its_krylov_space() -> None:
    matrix, _ = matrix_with(torch.tensor([2.0] + [0.0] * 9, dtype=torch.float64))
    density = spectral_density(MatrixOperator(matrix), probes=3, steps=8)
    assert density.nodes.shape == density.weights.shape == (3, 8)
    torch.testing.assert_close(density.weights.sum(dim=1), torch.ones(3).double())
    assert density.cumulative(3.0)[0] == pytest.approx(1)


def test_progress_and_wrong_input() -> None:
    op, reports = MatrixOperator(torch.eye(6)), []
    op.matrix = torch.arange(6.0).diag()
    spectral_density(op, probes=2, steps=3, progress=lambda *state: reports.append(state))
    assert reports == [(n, 6) for n in range(1, 7)]
    with pytest.raises(ValueError, match="at least 1 probe"):
        spectral_density(op, probes=0)
    with pytest.raises(ValueError, match="at least 1 step"):
        directional_density(op, torch.ones(6), 0)
    with pytest.raises(ValueError, match="length 0"):
        directional_density(op, torch.zeros(6))
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        directional_density(op, torch.ones(5))
    with pytest.raises(ValueError, match="from low to high"):
        directional_density(op, torch.ones(6)).between(2, 1)
    with pytest.raises(ValueError, match="above 0"):
        spectral_density(op).smooth(torch.zeros(3), 0.0)
    op.dimension = 10**13
    with pytest.raises(ValueError, match="GiB are available"):
        directional_density(op, torch.ones(6))
