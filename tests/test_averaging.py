"""Averages of accumulators: as sparse as the last weights, and more accurate."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from dirprune import (
    GRDA,
    SparsityPlan,
    accumulators,
    averaged_weights,
    param_groups,
    sparsity_report,
)


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


def test_on_digits_the_average_is_as_sparse_and_no_worse() -> None:
    x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    y = torch.tensor(load_digits().target)
    steps, figures = 120, []
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        groups = param_groups(net, "weights")
        optimizer = GRDA(groups, lr=0.5, momentum=0.9, plan=SparsityPlan(0.9, steps))
        average = [v.clone() for v in accumulators(optimizer)]
        for n in range(steps):
            batch = torch.randint(1280, (64,))
            optimizer.zero_grad()
            cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
            for a, v in zip(average, accumulators(optimizer)):
                a.lerp_(v, 1.0 if n < 90 else 0.05)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        averaged = averaged_weights(optimizer, average)
        assert all((a == 0).any() for a in averaged[:2])
        for weights in ([p.detach().clone() for p in parameters], averaged):
            with torch.no_grad():
                for p, w in zip(parameters, weights):
                    p.copy_(w)
                right = (net(x[1280:]).argmax(1) == y[1280:]).double().mean()
            figures.append((float(right), sparsity_report(net).sparsity))
    (last, zeros), (mean, mean_zeros) = torch.tensor(figures).view(3, 2, 2).mean(0).tolist()
    assert mean >= last
    assert mean_zeros > zeros - 0.01 > 0.85
