"""One-shot pruning against closed forms on quadratics, where the loss is known."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dirprune import soft_threshold
from dirprune.landscape import (
    Objective,
    PrunedWeights,
    magnitude_prune,
    obd_prune,
    prune_once,
)
from dirprune.landscape.objectives.points import Point

DOUBLE = torch.float64
ROWS, COLUMNS = 6, 20


class LeastSquares:
    """A linear model that fits its data: all but six directions are exactly flat."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(ROWS, COLUMNS, generator=generator, dtype=DOUBLE)
        self.w = torch.randn(COLUMNS, generator=generator, dtype=DOUBLE)
        model = torch.nn.Linear(COLUMNS, 1, bias=False, dtype=DOUBLE)
        y = (self.x @ self.w).unsqueeze(1)
        self.objective = Objective(model, torch.nn.functional.mse_loss, (self.x, y))
        hessian = 2 * self.x.mT @ self.x / ROWS
        values, columns = torch.linalg.eigh(hessian)
        self.values, self.vectors = values.flip(0)[:ROWS], columns.mT.flip(0)[:ROWS]
        self.diagonal = hessian.diag()

    def shots(
        self, sparsity: float, ranks: tuple[int, ...] = (0, 3, ROWS)
    ) -> dict[str, PrunedWeights]:
        given = self.w, sparsity, self.values, self.vectors, self.diagonal, ranks
        return {f"{shot.rule} {shot.rank}": shot for shot in prune_once(*given)}

    def loss(self, weights: Tensor) -> float:
        return self.objective(Point(weights, {})).loss


def test_without_clipping_directional_pruning_costs_nothing() -> None:
    net = LeastSquares()
    shots = net.shots(1 / COLUMNS)
    directional = shots[f"directional {ROWS}"]
    assert directional.sparsity == 1 / COLUMNS
    assert directional.clipped == pytest.approx(0, abs=1e-12)
    assert directional.leaves == pytest.approx(0, abs=1e-20)
    assert net.loss(directional.weights) == pytest.approx(0, abs=1e-20)
    # The loss of magnitude pruning is the sum of one-dimensional parabolas.
    smallest = int(net.w.abs().argmin())
    cost = float((net.x[:, smallest] * net.w[smallest]).square().mean())
    assert net.loss(shots["magnitude None"].weights) == pytest.approx(cost)
    # If half of the sharp directions is protected, the step moves only in the other half.
    half = shots["directional 3"]
    assert half.leaves == pytest.approx(0, abs=1e-20)
    rest = net.vectors[3:] @ (half.weights - net.w)
    assert net.loss(half.weights) == pytest.approx(
        float((0.5 * net.values[3:] * rest.square()).sum())
    )


def test_clipped_weights_make_the_step_leave_the_floor() -> None:
    net = LeastSquares()
    before = 0.0
    for zeros in (2, 6, 12):
        shot = net.shots(zeros / COLUMNS)[f"directional {ROWS}"]
        assert int((shot.weights == 0).sum()) == zeros
        step = shot.weights - net.w
        across = torch.linalg.pinv(net.x) @ net.x @ step
        assert shot.leaves == pytest.approx(float(across.square().sum() / step.square().sum()))
        quadratic = 0.5 * shot.curvature * float(step.square().sum())
        assert net.loss(shot.weights) == pytest.approx(quadratic)
        assert shot.lam is not None
        unclipped = -shot.lam * (net.w.sign() - torch.linalg.pinv(net.x) @ net.x @ net.w.sign())
        assert shot.clipped == pytest.approx(float((step - unclipped).norm() / unclipped.norm()))
        assert shot.clipped > before
        before = shot.clipped
        assert net.loss(shot.weights) > 1e-4


def test_without_protected_directions_it_is_the_soft_threshold() -> None:
    net = LeastSquares()
    shots = net.shots(0.7)
    shrunk, directional = shots["soft_threshold None"], shots["directional 0"]
    assert torch.equal(shrunk.weights, directional.weights)
    assert shrunk.lam == directional.lam == float(net.w.abs().sort().values[13])
    torch.testing.assert_close(shrunk.weights, soft_threshold(net.w, shrunk.lam))
    assert shrunk.overlap == directional.overlap == 1
    assert shrunk.leaves is None
    assert directional.leaves == 0


def test_overlap_counts_the_zeros_that_magnitude_has_too() -> None:
    w = torch.tensor([1.0, 2.0, 3.0, 4.0])
    shots = prune_once(w, 0.5, torch.ones(1), torch.eye(4)[:1], torch.tensor([9.0, 1, 0.1, 1]), [])
    diagonal = next(shot for shot in shots if shot.rule == "obd")
    assert diagonal.weights.tolist() == [1, 0, 0, 4]
    assert diagonal.overlap == 0.5
    assert diagonal.curvature == 0
    magnitude = next(shot for shot in shots if shot.rule == "magnitude")
    assert magnitude.curvature == pytest.approx(0.2)


def test_ranks_that_cannot_reach_a_sparsity_are_left_out() -> None:
    w = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=DOUBLE)
    protected = torch.ones(1, 4, dtype=DOUBLE) / 2
    # P0 sign(w) = (1, 1, 1, -3) / 2, so no weight grows; with equal signs none can be pruned.
    values, diagonal = torch.ones(1, dtype=DOUBLE), torch.ones(4, dtype=DOUBLE)
    assert len(prune_once(w, 1.0, values, protected, diagonal, [0, 1])) == 5
    assert len(prune_once(w.abs(), 0.25, values, protected, diagonal, [0, 1])) == 4


def test_obd_is_best_where_the_hessian_is_diagonal() -> None:
    generator = torch.Generator().manual_seed(1)
    w, h = torch.randn(8, generator=generator), torch.rand(8, generator=generator) ** 4

    def loss(weights: Tensor) -> float:
        return float((0.5 * h * (weights - w).square()).sum())

    ours = obd_prune(w, 3 / 8, h)
    best = min(
        loss(w.index_fill(0, torch.tensor(chosen), 0.0))
        for chosen in itertools.combinations(range(8), 3)
    )
    assert loss(ours) == pytest.approx(best)
    assert best < loss(magnitude_prune(w, 3 / 8))


def test_without_curvature_obd_is_magnitude() -> None:
    w = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for h in (torch.zeros(50), -torch.rand(50)):
        assert torch.equal(obd_prune(w, 0.7, h), magnitude_prune(w, 0.7))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.7, 0.95, 1.0])
def test_every_rule_makes_as_many_zeros(sparsity: float) -> None:
    net = LeastSquares()
    for name, shot in net.shots(sparsity, (0, 1)).items():
        assert int((shot.weights == 0).sum()) == round(sparsity * COLUMNS), name
        assert shot.sparsity == sparsity


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: magnitude_prune(torch.ones(3), 1.5), "must lie in"),
        (lambda: magnitude_prune(torch.ones(3), math.nan), "must lie in"),
        (lambda: obd_prune(torch.ones(3), 0.5, torch.ones(2)), "one number per weight"),
        (
            lambda: prune_once(
                torch.ones(3), 0.5, torch.ones(1), torch.eye(3)[:1], torch.ones(3), [2]
            ),
            "0 to 1",
        ),
        (
            lambda: prune_once(
                torch.ones(3), 0.5, torch.ones(1), torch.eye(2)[:1], torch.ones(3), [1]
            ),
            "do not fit",
        ),
        (lambda: magnitude_prune(torch.tensor([1, torch.nan]), 0.5), "1 of 2 weights are NaN"),
        (lambda: obd_prune(torch.ones(1), 1.0, torch.tensor([torch.inf])), "diagonal has entries"),
    ],
)
def test_mistakes(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
