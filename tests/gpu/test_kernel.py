"""The compiled Triton step against float64 arithmetic and torch's own optimizers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dirprune.kernels import triton_step
from dirprune.kernels.rows import Adam, Gradient
from reference.kernel_step import adam_step, close, gradient_step, tensors, threshold

POWERS = [1.0, 2.0, 3.0, float("inf"), 1.5]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def to_double(row: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [None if t is None else t.double().clone() for t in row]


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_descent(dtype: torch.dtype, power: float) -> None:
    rule = Gradient(0.3, 0.9, power in (1.0, 3.0), 0.01, power == 2.0)
    rows = tensors(dtype, 1, "cuda")
    for g_before, g in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.55)):
        expected = [to_double(row) for row in rows]
        assert triton_step.step(rows, rule, g, g_before, power)
        for row, reference in zip(rows, expected):
            gradient_step(reference, rule, g, power)
            close(row[1], reference[1])
            close(row[3], reference[3])
            close(row[0], threshold(row[1].double(), g, power), power)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_adam(dtype: torch.dtype, power: float) -> None:
    rows = tensors(dtype, 2, "cuda")
    for n, (g_before, g) in enumerate(((0.0, 0.2), (0.2, 0.5), (0.5, 0.55)), 1):
        rule = Adam(0.1, n, (0.9, 0.99), 1e-8, 0.1)
        expected = [to_double(row) for row in rows]
        assert triton_step.step(rows, rule, g, g_before, power)
        for row, reference in zip(rows, expected):
            adam_step(reference, rule, g, power)
            for column in (1, 3, 4):
                close(row[column], reference[column])
            close(row[0], threshold(row[1].double(), g, power), power)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"weight_decay": 0.01, "maximize": True},
    ],
    ids=str,
)
def test_rows_without_v_have_the_bits_of_sgd(options: dict, dtype: torch.dtype) -> None:
    rows = tensors(dtype, 1, "cuda")
    weights = [torch.nn.Parameter(row[0].clone()) for row in rows]
    sgd = torch.optim.SGD(weights, 0.1, foreach=False, **options)
    dense = [
        (w, None, grad, m if options.get("momentum") else None, None) for w, _, grad, m, _ in rows
    ]
    for _ in range(3):
        for w, row in zip(weights, rows):
            w.grad = row[2].clone()
            row[2].mul_(0.7)
        sgd.step()
        before = [(w, v, w_.grad, m, s) for (w, v, _, m, s), w_ in zip(dense, weights)]
        assert triton_step.step(before, Gradient(0.1, **options))
    for w, row in zip(weights, rows):
        assert row[0].equal(w.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_v_have_the_bits_of_adamw(dtype: torch.dtype) -> None:
    rows = tensors(dtype, 2, "cuda")
    weights = [torch.nn.Parameter(row[0].clone()) for row in rows]
    adam = torch.optim.AdamW(weights, 0.01, weight_decay=0.1, foreach=False, fused=False)
    for n in range(1, 4):
        for w, row in zip(weights, rows):
            w.grad = row[2].clone()
            row[2].mul_(0.7)
        adam.step()
        dense = [(w, None, w_.grad, m, s) for (w, _, _, m, s), w_ in zip(rows, weights)]
        assert triton_step.step(dense, Adam(0.01, n, weight_decay=0.1))
    wrong = sum(int((row[0] != w).sum()) for w, row in zip(weights, rows))
    assert wrong == 0


@pytest.mark.parametrize("power", POWERS)
def test_only_changed_weights_are_adopted(power: float) -> None:
    rows = [row for row in tensors(torch.float32, 0, "cuda") if row[0].ndim > 1]
    assert triton_step.step(rows, Gradient(0.0), 0.4, 0.0, power)
    before = [row[1].clone() for row in rows]
    assert triton_step.step(rows, Gradient(0.0), 0.4, 0.4, power)
    assert all(row[1].equal(v) for row, v in zip(rows, before))
    for w, *_ in rows:
        w[0], w[1] = -3.0, 0.0
    assert triton_step.step(rows, Gradient(0.0), 0.4, 0.4, power)
    for (w, v, *_), v_before in zip(rows, before):
        close(w[0], torch.full_like(w[0], -3.0).double())
        assert (w[1] == 0).all()
        assert v[1].equal(v_before[1].clamp(-0.4, 0.4))
        assert v[2:].equal(v_before[2:])


def on_device(x: float) -> Tensor:
    return torch.full((), x, dtype=torch.float64, device="cuda")


@pytest.mark.parametrize(
    "rule",
    [
        lambda number: Gradient(number(0.1), 0.9, True, 0.01),
        lambda number: Adam(number(0.1), number(3.0), weight_decay=0.1),
    ],
    ids=["gradient", "adam"],
)
def test_a_captured_step_has_the_bits_of_an_eager_one(
    rule: Callable[[Callable], Gradient | Adam],
) -> None:
    eager, captured = tensors(torch.float32, 2, "cuda"), tensors(torch.float32, 2, "cuda")
    one_moment = isinstance(rule(float), Gradient)
    if one_moment:
        eager, captured = ([(*row[:4], None) for row in rows] for rows in (eager, captured))
    fixed, numbers = rule(on_device), rule(float)
    g, g_before = on_device(0.3), on_device(0.3)
    triton_step.step(captured, fixed, g, g_before, 2.0)
    triton_step.step(eager, numbers, 0.3, 0.3, 2.0)
    # the captured gradients have other addresses
    moved = [(w, v, grad.clone(), m, s) for w, v, grad, m, s in captured]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        triton_step.step(moved, fixed, g, g_before, 2.0)
    for threshold_now in (0.4, 0.5):
        g_before.copy_(g)
        g.fill_(threshold_now)
        for row, other in zip(moved, eager):
            row[2].add_(0.1)
            other[2].copy_(row[2])
        graph.replay()
        triton_step.step(eager, numbers, threshold_now, float(g_before), 2.0)
        # an eager step with other gradients does not change the graph's table
        other = tensors(torch.float32, 0, "cuda", seed=9)
        triton_step.step(other, Gradient(0.1), 0.1)
    for a, b in zip(moved, eager):
        assert all(x is None or x.equal(y) for x, y in zip(a, b))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the profiler
def test_a_step_neither_waits_for_the_device_nor_copies_from_the_host() -> None:
    rows = tensors(torch.float32, 1, "cuda")
    triton_step.step(rows, Gradient(0.1, 0.9), 0.1)
    moved = [(w, v, grad.clone(), m, s) for w, v, grad, m, s in rows]
    with torch.profiler.profile() as profiled:
        torch.cuda.set_sync_debug_mode("error")
        try:
            triton_step.step(rows, Gradient(0.1, 0.9), 0.2, 0.1)
            triton_step.step(moved, Gradient(0.1, 0.9), 0.2, 0.2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    events = [event.key for event in profiled.key_averages()]
    assert not any("Memcpy HtoD" in key for key in events), events
