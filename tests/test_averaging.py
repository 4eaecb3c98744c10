"""Averages of accumulators: as sparse as the weights, and better than the last ones."""

import pytest
import torch
from torch import nn

from dirprune import GRDA, SparsityPlan, accumulators, averaged_weights


def test_the_average_is_sparse_and_nearer_to_the_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2000, generator=generator) * (torch.arange(2000) % 10 == 0)
    w, dense = nn.Parameter(torch.zeros(2000)), nn.Parameter(torch.zeros(3))
    plan = SparsityPlan(0.9, steps=400)
    groups = [{"params": [w]}, {"params": [dense], "c": 0.0}]
    optimizer = GRDA(groups, lr=0.1, plan=plan)
    average = [v.clone() for v in accumulators(optimizer)]
    mean = torch.zeros(2000)
    for n in range(400):
        w.grad = w.detach() - target + torch.randn(2000, generator=generator)
        dense.grad = torch.ones(3)
        optimizer.step()
        for a, v in zip(average, accumulators(optimizer)):
            a.lerp_(v, 1.0 if n < 300 else 0.02)
        mean.lerp_(w.detach(), 0.02)
    before = w.detach().clone()
    new, new_dense = averaged_weights(optimizer, average)
    assert (new == 0).sum() >= 1750
    assert (mean == 0).sum() < 1000  # an average of the weights is dense
    alive = target != 0
    assert (new - target)[alive].norm() < (w.detach() - target)[alive].norm()
    assert torch.equal(w.detach(), before)
    assert torch.equal(new_dense, average[1])


@pytest.mark.parametrize("structure", ["2:4", "channels"])
def test_structures_are_kept(structure: str) -> None:
    w = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    blocks = [[(w, 0, i)] for i in range(8)] if structure == "channels" else None
    plan = SparsityPlan(0.5, steps=3, structure=structure, blocks=blocks)
    optimizer = GRDA([w], lr=0.1, plan=plan)
    for _ in range(3):
        w.grad = torch.zeros(8, 8)
        optimizer.step()
    assert torch.equal(averaged_weights(optimizer, accumulators(optimizer))[0], w.detach())
    other = averaged_weights(optimizer, [torch.randn(8, 8) * 0.5 + 0.2])[0]
    assert (other == 0).any()


def test_other_shapes_are_refused() -> None:
    optimizer = GRDA([nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match=r"averages must have the shapes"):
        averaged_weights(optimizer, [torch.ones(2)])
