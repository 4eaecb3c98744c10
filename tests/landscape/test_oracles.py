"""Curvature of a small ResNet, compared with curvlinops and hessian-eigenthings."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.landscape import GaussNewton, Hessian, top_eigenpairs
from dirprune.models import build

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def resnet() -> nn.Module:
    model = build("resnet20", num_classes=4, channels=3, size=(8, 8), width=0.25).to(D)
    for _ in range(5):
        model(torch.randn(16, 3, 8, 8, dtype=D))
    return model.eval()


@pytest.fixture
def data() -> list[tuple[Tensor, Tensor]]:
    x, y = torch.randn(10, 3, 8, 8, dtype=D), torch.randint(4, (10,))
    return [(x[:7], y[:7]), (x[7:], y[7:])]


def test_curvlinops_agrees(resnet: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    reason = "pip install curvlinops-for-pytorch"
    curvlinops = pytest.importorskip("curvlinops", reason=reason)
    weights = list(resnet.parameters())
    v = torch.randn(sum(w.numel() for w in weights), dtype=D)
    for ours, theirs in (
        (Hessian, curvlinops.HessianLinearOperator),
        (GaussNewton, curvlinops.GGNLinearOperator),
    ):
        expected = theirs(resnet, nn.CrossEntropyLoss(), weights, data) @ v
        found = ours(resnet, F.cross_entropy, data)(v)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * float(v.norm()))


def test_hessian_eigenthings_agrees(resnet: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    reason = "pip install hessian-eigenthings"
    algorithms = pytest.importorskip("hessian_eigenthings.algorithms", reason=reason)
    operators = pytest.importorskip("hessian_eigenthings.operators", reason=reason)
    losses = pytest.importorskip("hessian_eigenthings.loss_fns", reason=reason)
    x, y = (torch.cat(parts) for parts in zip(*data))
    data = [(x[:5], y[:5]), (x[5:], y[5:])]  # it gives every batch the same weight
    op = operators.HessianOperator(resnet, data, losses.supervised_loss(nn.CrossEntropyLoss()))
    expected = algorithms.lanczos(op, k=3, which="LA", max_iter=40, seed=0)
    assert bool((expected.residuals < 1e-3 * expected.eigenvalues).all())
    found = top_eigenpairs(Hessian(resnet, F.cross_entropy, data), 3, tol=1e-6)
    torch.testing.assert_close(found.values, expected.eigenvalues, rtol=1e-5, atol=0)
    overlap = (found.vectors @ expected.eigenvectors.mT).abs()
    torch.testing.assert_close(overlap, torch.eye(3, dtype=D), atol=1e-2, rtol=0)
