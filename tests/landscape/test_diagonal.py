"""Diagonals, compared with dense matrices."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import nn

from dirprune.landscape import (
    MatrixOperator,
    Objective,
    gauss_newton_diagonal,
    hessian_diagonal,
)

DOUBLE = torch.float64


def test_the_diagonal_is_exact_or_estimated_without_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(12, 12, generator=generator, dtype=DOUBLE)
    a = a + a.mT
    op, truth = MatrixOperator(a), a.diag()
    assert torch.equal(hessian_diagonal(op), truth)
    samples = 4000
    spread = ((a.square().sum(1) - truth.square()) / samples).sqrt()
    errors = (hessian_diagonal(op, samples) - truth) / spread
    limit = norm.isf(1e-5 / 24)
    assert float(errors.abs().max()) < limit
    assert 0.3 < float(errors.square().mean().sqrt()) < 2  # and no better than it can be
    # For a diagonal matrix one sample is exact.
    assert torch.equal(hessian_diagonal(MatrixOperator(truth.diag()), 1), truth)


def test_an_estimate_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        hessian_diagonal(MatrixOperator(torch.eye(2)), 0)


def test_the_diagonal_is_that_of_the_gauss_newton_matrix() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(12, 3, dtype=torch.float64)
    data = [(x[:5], torch.zeros(5).long()), (x[5:], torch.zeros(7).long())]
    expected = torch.zeros(31, dtype=torch.float64)
    parameters = list(model.parameters())
    for sample in x:
        outputs = model(sample[None])[0]
        rows = [torch.autograd.grad(z, parameters, retain_graph=True) for z in outputs]
        jacobian = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
        p = outputs.detach().softmax(0)
        middle = p.diag() - torch.outer(p, p)
        expected += (jacobian.T @ middle @ jacobian).diag() / len(x)
    draws = 2_000
    objective = Objective(model, F.cross_entropy, data)
    found = gauss_newton_diagonal(objective, draws, 0, lambda done, total: None)
    assert bool((found >= 0).all())
    # A sum of squares of nearly Gaussian variables has relative variance 2 per draw; five sigma.
    torch.testing.assert_close(found, expected, rtol=5 * (3 / draws) ** 0.5, atol=1e-12)
