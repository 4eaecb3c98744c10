"""Directional pruning against its definition and its laws."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dirprune import (
    DirectionalPath,
    FlatProjector,
    directional_prune,
    directional_scores,
    soft_threshold,
)

DOUBLE = torch.float64


def problem(seed: int, d: int, k: int) -> tuple[Tensor, FlatProjector]:
    """Weights, some of them zero, and a projector on all but k random directions."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d, generator=generator, dtype=DOUBLE)
    w[torch.rand(d, generator=generator) < 0.1] = 0.0
    q = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=DOUBLE)).Q
    return w, FlatProjector(q.mT.contiguous())


PROBLEMS = st.tuples(st.integers(0, 10**6), st.integers(1, 40)).flatmap(
    lambda t: st.integers(0, t[1]).map(lambda k: problem(t[0], t[1], k))
)


@given(PROBLEMS, st.floats(0, 30))
def test_it_minimises_the_objective_of_the_definition(
    drawn: tuple[Tensor, FlatProjector], lam: float
) -> None:
    w, flat = drawn
    dense = torch.eye(len(w), dtype=DOUBLE) - flat.basis.mT @ flat.basis
    s = [math.copysign(1, w_j) * p_j if w_j else 0.0 for w_j, p_j in zip(w, dense @ w.sign())]

    def objective(x: float, j: int) -> float:
        return 0.5 * (float(w[j]) - x) ** 2 + lam * float(s[j]) * abs(x)

    pruned = directional_prune(w, lam, flat)
    for j, x in enumerate(pruned.tolist()):
        # On either side of zero the objective is a parabola: its vertex, or zero.
        vertices = [float(w[j]) - lam * float(s[j]), float(w[j]) + lam * float(s[j])]
        candidates = [0.0, max(vertices[0], 0.0), min(vertices[1], 0.0)]
        best = min(objective(c, j) for c in candidates)
        assert objective(x, j) <= best + 1e-9 * (1 + abs(best))


@given(PROBLEMS)
def test_scores_add_up_to_the_flat_part_of_the_signs(
    drawn: tuple[Tensor, FlatProjector],
) -> None:
    w, flat = drawn
    total = float(directional_scores(w, flat).sum())
    assert total == pytest.approx(float(flat(w.sign()).square().sum()), abs=1e-9)
    assert -1e-9 <= total <= len(w) + 1e-9


@given(PROBLEMS, st.floats(0, 3))
def test_all_flat_is_the_soft_threshold_and_none_flat_is_the_identity(
    drawn: tuple[Tensor, FlatProjector], lam: float
) -> None:
    w, _ = drawn
    everything = directional_prune(w, lam, lambda x: x)
    torch.testing.assert_close(everything, soft_threshold(w, lam))
    assert torch.equal(directional_prune(w, lam, torch.zeros_like), w)


@given(PROBLEMS, st.floats(0, 1))
def test_until_a_weight_is_zero_the_step_is_flat(
    drawn: tuple[Tensor, FlatProjector], share: float
) -> None:
    w, flat = drawn
    path = DirectionalPath(w, flat)
    ahead = path.breakpoints[path.breakpoints > 0]
    lam = share * min(float(ahead.min()) if len(ahead) else 1.0, 1e3)
    step = path.weights(lam) - w
    if share < 1:
        # A zero stays where it is; the others make the whole step.
        flat_step = torch.where(w == 0, 0.0, -lam * flat(w.sign()))
        torch.testing.assert_close(step, flat_step, atol=1e-9, rtol=1e-9)
    if share < 1 and not bool((w == 0).any()):
        torch.testing.assert_close(flat(step), step, atol=1e-9, rtol=1e-9)


@given(PROBLEMS, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_the_path_reaches_the_stated_sparsity(
    drawn: tuple[Tensor, FlatProjector], shares: list[float]
) -> None:
    w, flat = drawn
    path = DirectionalPath(w, flat)
    for share in [*shares, 1.0]:
        target = share * path.largest_sparsity
        lam = path.lam_for(target)
        zeros = int((path.weights(lam) == 0).sum())
        assert zeros / len(w) == path.sparsity(lam) >= target - 1e-6 / len(w)
        below = math.nextafter(lam, 0)
        assert lam == 0 or path.sparsity(below) < target
    assert not bool(path.weights(lam).signbit()[path.weights(lam) == 0].any())


@given(PROBLEMS, st.floats(0.01, 20), st.floats(0.01, 0.99))
def test_the_path_is_straight_between_breakpoints(
    drawn: tuple[Tensor, FlatProjector], lam: float, share: float
) -> None:
    w, flat = drawn
    path = DirectionalPath(w, flat)
    inside = path.breakpoints[path.breakpoints.isfinite()].tolist()
    ends = sorted({0.0, *inside, 25.0})
    low, high = next((a, b) for a, b in itertools.pairwise(ends) if a <= lam <= b or b == ends[-1])
    between = path.weights(low + share * (high - low))
    straight = (1 - share) * path.weights(low) + share * path.weights(high)
    torch.testing.assert_close(between, straight, atol=1e-9, rtol=1e-7)


def test_float32_and_large_thresholds_leave_exact_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(10_007, generator=generator)
    path = DirectionalPath(w, lambda x: x)
    for lam in (0.5, path.lam_for(0.9), path.lam_for(1.0)):
        pruned = path.weights(lam)
        assert int((pruned == 0).sum()) == round(path.sparsity(lam) * len(w))
        assert torch.equal(pruned.sign() * w.sign(), pruned.abs().sign())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("size", [2, 5, 60, 300])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_without_flat_directions_no_weight_is_pruned(
    dtype: torch.dtype, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=dtype)).Q
    path = DirectionalPath(torch.randn(size, generator=generator).to(dtype), FlatProjector(q))
    assert path.largest_sparsity == 0
    with pytest.raises(ValueError, match=r"0\.00% of"):
        path.lam_for(0.1)


# --- the projector


def test_a_projector_from_eigenpairs_protects_the_sharp() -> None:
    hessian = torch.diag(torch.tensor([3.0, 1e-6, -2.0, 0.0], dtype=DOUBLE))
    values, vectors = torch.linalg.eigh(hessian)
    ones = torch.ones(4, dtype=DOUBLE)
    for chosen in ({"threshold": 1e-3}, {"rank": 2}):
        flat = FlatProjector.from_eigenpairs(values, vectors.mT, **chosen)  # type: ignore[arg-type]
        assert flat(ones).tolist() == [0, 1, 0, 1]
    everything = FlatProjector.from_eigenpairs(values, vectors.mT, rank=0)
    assert torch.equal(everything(ones), ones)


def test_a_projector_from_its_matrix_is_the_matrix() -> None:
    _, flat = problem(3, 20, 7)
    matrix = torch.eye(20, dtype=DOUBLE) - flat.basis.mT @ flat.basis
    again = FlatProjector.from_matrix(matrix)
    assert again.basis.shape == (7, 20)
    x = torch.randn(20, dtype=DOUBLE)
    torch.testing.assert_close(again(x), matrix @ x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlatProjector(torch.ones(2, 3)), r"orthonormal.*linalg\.qr"),
        (lambda: FlatProjector(torch.ones(3)), "shape"),
        (lambda: FlatProjector(torch.eye(3, dtype=torch.int64)), "floating-point"),
        (lambda: FlatProjector.from_matrix(torch.ones(2, 3)), r"\(d, d\)"),
        (lambda: FlatProjector.from_matrix(torch.ones(2, 2)), "not an orthogonal projector"),
        (lambda: FlatProjector.from_matrix(torch.tensor([[1.0, 1], [0, 0]])), "not an orthogonal"),
        (lambda: FlatProjector.from_eigenpairs(torch.ones(2), torch.eye(2)), "exactly one"),
        (lambda: FlatProjector.from_eigenpairs(torch.ones(2), torch.eye(2), rank=3), "0 to 2"),
        (lambda: FlatProjector.from_eigenpairs(torch.ones(3), torch.eye(2), rank=1), "fit"),
        (lambda: FlatProjector(torch.eye(3)[:1])(torch.ones(2)), "3 dimensions"),
        (lambda: FlatProjector(torch.eye(3)[:1])(torch.ones(3, dtype=DOUBLE)), "convert one"),
        (lambda: FlatProjector.from_matrix(torch.ones(0, 0)), r"\(d, d\)"),
        (lambda: FlatProjector.from_matrix(torch.eye(2).long()), "floating-point"),
        (lambda: directional_prune(torch.ones(2), 1e39, lambda x: x), "at least 0"),
        (lambda: directional_scores(torch.ones(2, 2), lambda x: x), "parameters_to_vector"),
        (lambda: directional_scores(torch.ones(2).long(), lambda x: x), "floating-point"),
        (lambda: directional_scores(torch.ones(2), lambda x: x[:1]), "return the same shape"),
        (lambda: directional_prune(torch.ones(2), -1.0, lambda x: x), "at least 0"),
        (lambda: directional_prune(torch.ones(2), math.nan, lambda x: x), "at least 0"),
        (
            lambda: directional_prune(torch.tensor([1, math.nan]), 0.1, lambda x: x),
            "1 of 2 weights",
        ),
        (lambda: directional_prune(torch.tensor([1, math.inf]), 0.1, lambda x: x), "infinite"),
        (lambda: DirectionalPath(torch.ones(0), lambda x: x), "empty"),
        (lambda: DirectionalPath(torch.ones(4), torch.zeros_like).lam_for(0.5), "0.00% of"),
    ],
)
def test_mistakes(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
