"""GRDA in a training script: schedulers, closures, mixed precision, torch.compile."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler

from dirprune import GRDA, threshold_path


def quadratic(w: nn.Parameter) -> Tensor:
    return (w - 1).square().sum()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (n + 1)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 9]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 15),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=30),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.01, total_iters=5), lr_scheduler.StepLR(o, 3)], [5]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_the_threshold_along_its_known_path(name: str) -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = GRDA([w], lr=0.05, c=0.02, mu=0.6, momentum=0.5)
    scheduler = SCHEDULERS[name](optimizer)
    path = threshold_path(0.02, 0.6, scheduler, steps=20)
    observed = []
    for _ in range(20):
        optimizer.zero_grad()
        quadratic(w).backward()
        optimizer.step()
        scheduler.step()
        observed += optimizer.thresholds()
    torch.testing.assert_close(path, torch.tensor(observed, dtype=torch.float64))
    assert w.isfinite().all()


def test_reduce_on_plateau_works() -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = GRDA([w], lr=0.1, c=0.02)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(5):
        w.grad = torch.ones(3)
        optimizer.step()
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_closure_is_evaluated_with_gradients() -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = GRDA([w], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = quadratic(w)
        loss.backward()
        return loss

    with torch.no_grad():
        assert float(optimizer.step(closure)) == 3.0
    assert float(quadratic(w).detach()) < 3.0


def test_skipped_mixed_precision_steps_do_not_grow_the_threshold() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = GRDA([w], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for n, factor in enumerate([1.0, math.inf, 1.0, math.inf]):
        optimizer.zero_grad()
        scaler.scale(factor * w.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.state[w]["n"] == n // 2 + 1
    assert optimizer.thresholds() == pytest.approx(threshold_path(0.005, 0.51, [0.1] * 2)[-1:])


def test_accumulated_gradients_are_one_step() -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    one, two = GRDA([a], lr=0.1), GRDA([b], lr=0.1)
    quadratic(a).backward()
    (quadratic(b) / 2).backward()
    (quadratic(b) / 2).backward()
    one.step()
    two.step()
    assert torch.equal(a, b)


def test_a_group_that_joins_later_starts_its_own_count() -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = GRDA([a], lr=0.1, c=0.01, mu=0.5)
    a.grad = torch.zeros(3)
    optimizer.step()
    optimizer.add_param_group({"params": [b], "mu": 0.7})
    b.grad = torch.zeros(3)
    optimizer.step()
    assert (optimizer.state[a]["n"], optimizer.state[b]["n"]) == (2, 1)
    assert optimizer.thresholds() == pytest.approx([0.01 * 0.1 * 2**0.5, 0.01 * 0.1**1.2])


def test_zero_rate_materialises_state_without_a_step() -> None:
    w = nn.Parameter(torch.tensor([0.5, -0.25]))
    optimizer = GRDA([w], lr=0.0, c=0.1, momentum=0.9)
    w.grad = torch.zeros(2)
    optimizer.step()
    assert torch.equal(w.detach(), torch.tensor([0.5, -0.25]))
    assert set(optimizer.state[w]) == {"n", "g", "v", "momentum_buffer"}
    assert (optimizer.state[w]["n"], optimizer.thresholds()) == (0, [0.0])


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=str)
def test_compiled_step_gives_the_same_weights(options: dict) -> None:
    start = [torch.randn(30, 20), torch.randn(50), torch.randn(90, dtype=torch.float16)]
    eager, compiled = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a = GRDA([{"params": eager[1:]}, {"params": eager[:1], "c": 0}], lr=0.1, c=0.5, **options)
    b = GRDA([{"params": compiled[1:]}, {"params": compiled[:1], "c": 0}], c=0.5, **options)
    compiles = CompileCounter()
    step = torch.compile(b.step, backend=compiles)
    for n in range(12):
        for optimizer, group in itertools.product((a, b), (0, 1)):
            optimizer.param_groups[group]["lr"] = 0.1 / (n + 1)
        for p, q in zip(eager, compiled):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        step()
        for p, q in zip(eager, compiled):
            tolerance = 2e-3 if p.dtype == torch.float16 else 1e-6
            torch.testing.assert_close(p, q, atol=tolerance, rtol=tolerance)
    assert all((p == 0).any() for p in compiled[1:])
    assert compiles.frame_count <= 2  # not once a step, though lr and g change at each
