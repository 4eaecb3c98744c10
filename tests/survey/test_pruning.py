"""Controls and one-shot pruning, compared with definitions and dense matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dirprune import soft_threshold
from dirprune.landscape import Point
from dirprune.survey.config import SurveyConfig
from dirprune.survey.controls import controls, pruned
from dirprune.survey.curvature import projection_ratios
from dirprune.survey.estimate import LOWER_LIMITS, within
from dirprune.survey.networks import Network


@given(st.integers(1, 39), st.integers(0, 1000))
def test_controls_have_the_same_number_of_zeros(count: int, seed: int) -> None:
    w = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made = pruned(w, count / 40)
    smallest = w.abs().argsort()[:count]
    for x in made.values():
        assert sorted((x == 0).nonzero().flatten().tolist()) == sorted(smallest.tolist())
    kept = made["magnitude"] != 0
    assert torch.equal(made["magnitude"][kept], w[kept])
    level = float(w.abs().sort().values[count - 1])
    torch.testing.assert_close(made["soft_threshold"], soft_threshold(w, level))


def test_controls() -> None:
    w = torch.randn(100)
    dense = Network("a", "dense", Point(w, {}))
    sparse = Network("b", "sparse", Point(torch.where(torch.arange(100) < 60, 0.0, w + 1), {}))
    made = {n.name: n for n in controls(dense, sparse, 3)}
    assert list(made) == ["magnitude", "soft_threshold", "random"]
    assert made["magnitude"].zeros == made["soft_threshold"].zeros == 0.6
    distance = float((sparse.point.w - w).norm())
    assert float((made["random"].point.w - w).norm()) == pytest.approx(distance, rel=1e-5)
    other = Network("c", "run", Point(w + 1, {}))
    assert [n.name for n in controls(dense, other, 3)] == ["random"]


def test_projection_ratios() -> None:
    basis = torch.linalg.qr(torch.randn(30, 5, dtype=torch.float64)).Q.T
    way = torch.randn(30, dtype=torch.float64)
    found = projection_ratios(basis, way)
    for i in range(5):
        p = basis[: i + 1].T @ torch.linalg.pinv(basis[: i + 1].T)
        assert float(found[i]) == pytest.approx(float((p @ way).norm() / way.norm()))
    inside = projection_ratios(basis, basis.T @ torch.randn(5, dtype=torch.float64))
    assert float(inside[-1]) == pytest.approx(1)


def test_a_budget_shrinks_until_it_fits() -> None:
    config = SurveyConfig(samples=4000, test_samples=1000, budget="10s")

    def cost(c: SurveyConfig) -> float:
        return c.grid**2 * c.samples / 4000

    assert within(config, 1000, cost) == config
    smaller = within(config, 100, cost)
    assert 60 < cost(smaller) <= 85
    assert all(
        getattr(smaller, n) >= min(LOWER_LIMITS[n], getattr(config, n)) for n in LOWER_LIMITS
    )
    with pytest.raises(ValueError, match=r"a budget of 10s is too short"):
        within(config, 1, cost)
