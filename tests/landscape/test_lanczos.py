"""Eigenpairs of matrices with known eigenpairs."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dirprune._support.checkpoint import load_checkpoint, save_checkpoint
from dirprune.landscape import (
    Eigenpairs,
    Hessian,
    LanczosProgress,
    MatrixOperator,
    top_eigenpairs,
)
from dirprune.landscape.curvature.krylov import Krylov


def matrix_with(values: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """A dense matrix with these eigenvalues; torch's seed decides its eigenvectors."""
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    matrix = (vectors * values.double()) @ vectors.mT
    return ((matrix + matrix.mT) / 2).to(dtype)


def network_like(n: int) -> Tensor:
    """Many eigenvalues around zero and a few far above it, as in a trained network."""
    bulk = 0.05 * torch.randn(n - 12)
    return torch.cat([bulk, torch.logspace(-0.5, 1.5, 12)]).double()


def true_residuals(matrix: Tensor, pairs: Eigenpairs) -> Tensor:
    wide = matrix.double()
    vectors = pairs.vectors.double()
    return (vectors @ wide - pairs.values[:, None] * vectors).norm(dim=1)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("basis", [None, 14])
def test_eigenpairs_of_a_known_spectrum(which: str, basis: int | None) -> None:
    values = network_like(300)
    values[:6] = -torch.logspace(0, 1, 6)
    matrix = matrix_with(values)
    pairs = top_eigenpairs(MatrixOperator(matrix), 5, which=which, basis=basis, tol=1e-8)  # type: ignore[arg-type]
    order = {"largest": -values, "smallest": values, "magnitude": -values.abs()}[which].argsort()
    torch.testing.assert_close(pairs.values, values[order[:5]], rtol=1e-8, atol=1e-8)
    gram = pairs.vectors @ pairs.vectors.mT
    torch.testing.assert_close(gram, torch.eye(5).double(), atol=1e-10, rtol=0)
    assert pairs.converged
    assert bool((true_residuals(matrix, pairs) <= pairs.residuals * (1 + 1e-6) + 1e-13).all())
    assert bool((pairs.residuals <= 1e-8 * pairs.values.abs().clamp(min=1e-3 * 31.7)).all())


def test_scipy_agrees() -> None:
    matrix = matrix_with(network_like(200))
    expected = scipy.sparse.linalg.eigsh(matrix.numpy(), 10, which="LA")[0][::-1].copy()
    found = top_eigenpairs(MatrixOperator(matrix), 10, tol=1e-9).values
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-10)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000))
def test_any_k_of_any_dimension(k: int, n: int, seed: int) -> None:
    torch.manual_seed(seed)
    values = torch.randn(n, dtype=torch.float64)
    matrix = matrix_with(values)
    if k > n:
        with pytest.raises(ValueError, match=f"k must be 1 to {n}"):
            top_eigenpairs(MatrixOperator(matrix), k)
        return
    pairs = top_eigenpairs(MatrixOperator(matrix), k, tol=1e-6)
    torch.testing.assert_close(
        pairs.values, values.sort(descending=True).values[:k], rtol=1e-5, atol=1e-5
    )


def test_repeated_eigenvalues_and_an_exhausted_krylov_space() -> None:
    matrix = matrix_with(torch.tensor([5.0, 5.0, 5.0] + [1.0] * 20))
    pairs = top_eigenpairs(MatrixOperator(matrix), 4)
    torch.testing.assert_close(pairs.values, torch.tensor([5.0, 5, 5, 1]).double())
    low_rank = matrix_with(torch.tensor([3.0, 2.0] + [0.0] * 60))
    pairs = top_eigenpairs(MatrixOperator(low_rank), 4)
    torch.testing.assert_close(
        pairs.values, torch.tensor([3.0, 2, 0, 0]).double(), atol=1e-12, rtol=0
    )
    nothing = top_eigenpairs(MatrixOperator(torch.zeros(9, 9)), 2)
    assert nothing.values.tolist() == [0, 0]
    assert nothing.converged


@pytest.mark.parametrize("seed", range(5))
def test_float32_reaches_its_floor_and_stops_there(seed: int) -> None:
    torch.manual_seed(seed)
    values = network_like(300)
    matrix = matrix_with(values, torch.float32)
    op = MatrixOperator(matrix)
    pairs = top_eigenpairs(op, 5, tol=1e-4)
    assert pairs.converged
    assert bool((true_residuals(matrix, pairs) <= 1.01 * pairs.residuals).all())
    with pytest.warns(
        UserWarning, match=r"rounding error of the operator, about .* a tolerance of .* float64"
    ) as caught:
        floor = top_eigenpairs(op, 5, tol=1e-9)
    assert floor.products < 100
    assert not floor.converged
    exact = values.sort(descending=True).values[:5]
    torch.testing.assert_close(floor.values, exact, rtol=1e-5, atol=1e-5)
    assert 1e-8 * 31.6 < floor.noise < 1e-5 * 31.6
    # The tolerance that the warning names can be reached.
    advice = re.search(r"a tolerance of (\S+),", str(caught[0].message))
    assert advice
    assert float(advice[1]) < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert top_eigenpairs(op, 5, tol=float(advice[1])).converged


class Diagonal:
    """A diagonal matrix of any size."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.dimension, self.dtype, self.device = len(values), values.dtype, values.device

    def __call__(self, v: Tensor) -> Tensor:
        return self.values * v


def test_float32_keeps_its_accuracy_over_long_vectors() -> None:
    # A plain float32 sum loses the small terms after a few large ones.
    large = torch.logspace(-0.5, 1.5, 12, dtype=torch.float64).flip(0)
    op = Diagonal(torch.cat([large, 0.05 * torch.randn(400_000)]).float())
    krylov = Krylov(op, torch.randn(op.dimension), 20)
    for _ in range(20):
        krylov.step()
    basis = krylov.basis.double()
    torch.testing.assert_close(basis @ basis.mT, torch.eye(21).double(), atol=1e-5, rtol=0)
    assert krylov.noise < 1e-6 * 31.6
    pairs = top_eigenpairs(op, 5, tol=1e-5)
    assert pairs.converged
    torch.testing.assert_close(pairs.values, op.values[:5].double(), rtol=1e-6, atol=0)
    off = op.values.double() * pairs.vectors.double() - pairs.values[:, None] * pairs.vectors
    assert bool((off.norm(dim=1) <= 1e-5 * pairs.values).all())


class Rough(Diagonal):
    """A diagonal matrix whose products have a reproducible rounding error."""

    def __init__(self, values: Tensor, size: float) -> None:
        super().__init__(values)
        self.size, self.products = size, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        wave = torch.sin(1e3 * torch.arange(self.dimension, dtype=v.dtype) * (1 + v[0]))
        return super().__call__(v) + self.size * wave * v.norm() / self.dimension**0.5


def test_rounding_costs_at_most_two_products() -> None:
    values = torch.cat([torch.tensor([10.0, 9, 8, 7, 6]), torch.linspace(0, 5, 500)]).double()
    smooth = top_eigenpairs(Diagonal(values), 5, tol=1e-5)
    op = Rough(values, 2e-5)  # a third of what is asked
    pairs = top_eigenpairs(op, 5, tol=1e-5)
    assert pairs.converged
    assert op.products == pairs.products <= smooth.products + 2


def test_too_few_products_give_a_warning() -> None:
    op = MatrixOperator(matrix_with(torch.linspace(0, 1, 400)))
    with pytest.warns(UserWarning, match="stopped after 39 products"):
        pairs = top_eigenpairs(op, 4, tol=1e-10, max_products=34)
    assert len(pairs.values) == 4


class Interrupted(Exception):
    pass


class Counting(MatrixOperator):
    """Raises at a certain product."""

    def __init__(self, matrix: Tensor, stop: int = -1) -> None:
        super().__init__(matrix)
        self.products, self.stop = 0, stop

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        if self.products == self.stop:
            raise Interrupted
        return super().__call__(v)


@pytest.mark.parametrize("stop", [1, 4, 13, 14, 17])
def test_a_search_resumes_bit_identically(tmp_path: Path, stop: int) -> None:
    matrix = matrix_with(network_like(100))
    uninterrupted = top_eigenpairs(MatrixOperator(matrix), 5, basis=13, tol=1e-10)
    state = tmp_path / "search.safetensors"
    with pytest.raises(Interrupted):
        top_eigenpairs(Counting(matrix, stop), 5, basis=13, tol=1e-10, state=state)
    op = Counting(matrix)
    resumed = top_eigenpairs(op, 5, basis=13, tol=1e-10, state=state)
    assert torch.equal(resumed.values, uninterrupted.values)
    assert torch.equal(resumed.vectors, uninterrupted.vectors)
    assert resumed.products == uninterrupted.products == stop - 1 + op.products
    assert not state.exists()


def test_a_state_of_another_search_is_refused(tmp_path: Path) -> None:
    matrix = matrix_with(network_like(60))
    state = tmp_path / "search.safetensors"
    with pytest.raises(Interrupted):
        top_eigenpairs(Counting(matrix, 9), 3, state=state)
    with pytest.raises(ValueError, match="belongs to another search"):
        top_eigenpairs(MatrixOperator(matrix), 4, state=state)
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match="is truncated"):
        top_eigenpairs(MatrixOperator(matrix), 3, state=state)


def test_a_state_identifies_its_operator(tmp_path: Path) -> None:
    x, y = torch.randn(30, 4), torch.randint(3, (30,))
    model = torch.nn.Linear(4, 3)
    state = tmp_path / "search.safetensors"

    def interrupt(progress: LanczosProgress) -> None:
        if progress.products == 4:
            raise Interrupted

    def search(model: torch.nn.Module, y: Tensor, **options: Any) -> Any:
        hessian = Hessian(model, torch.nn.functional.cross_entropy, (x, y))
        return top_eigenpairs(hessian, 2, basis=6, state=state, **options)

    with pytest.raises(Interrupted):
        search(model, y, progress=interrupt)
    changed = torch.nn.Linear(4, 3)
    changed.load_state_dict({n: t + 1e-6 for n, t in model.state_dict().items()})
    for other in (lambda: search(changed, y), lambda: search(model, (y + 1) % 3)):
        with pytest.raises(ValueError, match="another matrix \\(other weights, data or loss"):
            other()
    assert search(model, y).converged

    # A matrix without a name, or a state of version 0.1, is identified by one product.
    matrix = matrix_with(network_like(60))

    class Function:
        dimension, dtype, device = 60, matrix.dtype, matrix.device

        def __init__(self, matrix: Tensor, stop: int = -1) -> None:
            self.counting = Counting(matrix, stop)

        def __call__(self, v: Tensor) -> Tensor:
            return self.counting(v)

    with pytest.raises(Interrupted):
        top_eigenpairs(Function(matrix, 9), 3, basis=12, state=state)
    with pytest.raises(ValueError, match="another matrix, whose product differs"):
        top_eigenpairs(Function(matrix.roll((1, 1), (0, 1))), 3, basis=12, state=state)
    uninterrupted = top_eigenpairs(MatrixOperator(matrix), 3, basis=12)
    resumed = top_eigenpairs(Function(matrix), 3, basis=12, state=state)
    assert torch.equal(resumed.values, uninterrupted.values)

    with pytest.raises(Interrupted):
        top_eigenpairs(Counting(matrix, 9), 3, basis=12, state=state)
    tensors, meta = load_checkpoint(state)
    old = {name: meta[name] for name in ("identity", "numbers")}
    save_checkpoint(state, tensors, old)
    with pytest.raises(ValueError, match="another matrix, whose product differs"):
        top_eigenpairs(MatrixOperator(2 * matrix), 3, basis=12, state=state)
    resumed = top_eigenpairs(MatrixOperator(matrix), 3, basis=12, state=state)
    assert torch.equal(resumed.values, uninterrupted.values)
    save_checkpoint(state, tensors, old | {"version": 9})
    with pytest.raises(ValueError, match="version 9 of a search's state, this dirprune reads up"):
        top_eigenpairs(MatrixOperator(matrix), 3, basis=12, state=state)


def test_progress_begins_with_the_memory() -> None:
    op, reports = MatrixOperator(matrix_with(network_like(100))), list[LanczosProgress]()
    pairs = top_eigenpairs(op, 3, basis=20, progress=reports.append)
    assert reports[0].memory == (20 + 3 + 5) * 100 * 8
    assert [state.products for state in reports] == list(range(pairs.products))
    assert reports[-1].converged == 3
    assert reports[-1].worst <= 1 < reports[3].worst
    assert float(reports[-1].values[0]) == float(pairs.values[0])


def test_wrong_input() -> None:
    op = MatrixOperator(torch.eye(8))
    with pytest.raises(ValueError, match="which must be"):
        top_eigenpairs(op, 2, which="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tol must lie"):
        top_eigenpairs(op, 2, tol=0.0)
    with pytest.raises(ValueError, match="basis of 3 is too small"):
        top_eigenpairs(op, 3, basis=3)
    with pytest.raises(ValueError, match="max_products must be at least 1"):
        top_eigenpairs(op, 2, max_products=0)
    with pytest.raises(ValueError, match="floating-point"):
        MatrixOperator(torch.eye(2).long())
    with pytest.raises(ValueError, match="not symmetric"):
        MatrixOperator(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="has shape"):
        MatrixOperator(torch.ones(3))
    op.matrix = torch.full((8, 8), torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        top_eigenpairs(op, 2)
    op.dimension = 10**13
    with pytest.raises(ValueError, match=r"numbers need .* GiB are available"):
        top_eigenpairs(op, 2)
