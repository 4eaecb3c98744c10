"""The Triton step, run by Triton's interpreter on the CPU, against float64 arithmetic.

On a GPU the same is run by tests/gpu.
"""

import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from reference.kernel_step import adam_step, close, gradient_step, tensors, threshold

pytest.importorskip("triton")

from dirprune import triton_step
from dirprune.triton_step import Adam, Gradient

POWERS = [1.0, 2.0, 3.0, float("inf"), 1.5]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton reads the variable when a kernel is defined."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "dirprune.triton_kernels", raising=False)
    triton_step.kernels.cache_clear()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        yield
    triton_step.kernels.cache_clear()


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_three_steps_of_gradient_descent(dtype: torch.dtype, power: float) -> None:
    rule = Gradient(0.3, 0.9, power in (1.0, 3.0), 0.01, power == 2.0)
    rows = tensors(dtype, 1)
    reference = [[None if t is None else t.double().clone() for t in row] for row in rows]
    for g_before, g in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.55)):
        assert triton_step.step(rows, rule, g, g_before, power)
        for row, expected in zip(rows, reference):
            gradient_step(expected, rule, g, power)
            close(row[1], expected[1])
            close(row[3], expected[3])
            close(row[0], threshold(row[1].double(), g, power), power)
            row[2].add_(0.125)
            # the decay acts on the rounded weights
            expected[:3] = [t.double().clone() for t in row[:3]]


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_three_steps_of_adam(dtype: torch.dtype, power: float) -> None:
    rows = tensors(dtype, 2)
    reference = [[t.double().clone() for t in row] for row in rows]
    for n, (g_before, g) in enumerate(((0.0, 0.2), (0.2, 0.5), (0.5, 0.55)), 1):
        rule = Adam(0.1, n, (0.9, 0.99), 1e-8, 0.1)
        assert triton_step.step(rows, rule, g, g_before, power)
        for row, expected in zip(rows, reference):
            adam_step(expected, rule, g, power)
            for column in (1, 3, 4):
                close(row[column], expected[column])
            close(row[0], threshold(row[1].double(), g, power), power)
            row[2].add_(0.125)
            expected[:] = [t.double().clone() for t in row]


@pytest.mark.parametrize("maximize", [False, True])
def test_rows_without_v_follow_sgd(maximize: bool) -> None:
    rows = tensors(torch.float32, 1)
    weights = [torch.nn.Parameter(row[0].clone()) for row in rows]
    sgd = torch.optim.SGD(
        weights, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True, maximize=maximize
    )
    dense = [(w, None, grad, m, None) for w, _, grad, m, _ in rows]
    for _ in range(3):
        for w, row in zip(weights, rows):
            w.grad = row[2].clone()
        sgd.step()
        assert triton_step.step(dense, Gradient(0.1, 0.9, True, 0.01, maximize))
    for w, row in zip(weights, rows):
        torch.testing.assert_close(row[0], w.detach())


def test_rows_without_v_follow_adamw() -> None:
    rows = tensors(torch.float64, 2)
    weights = [torch.nn.Parameter(row[0].clone()) for row in rows]
    adam = torch.optim.AdamW(weights, 0.01, weight_decay=0.1)
    dense = [(w, None, *rest) for w, _, *rest in rows]
    for n in range(1, 4):
        for w, row in zip(weights, rows):
            w.grad = row[2].clone()
        adam.step()
        assert triton_step.step(dense, Adam(0.01, n, weight_decay=0.1))
    for w, row in zip(weights, rows):
        torch.testing.assert_close(row[0], w.detach())


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changed_weights_are_adopted_and_the_others_keep_their_bits(
    dtype: torch.dtype, power: float
) -> None:
    rows = [row for row in tensors(dtype, 0) if row[0].numel() > 1]
    still = Gradient(0.0)
    g = 0.4
    assert triton_step.step(rows, still, g, 0.0, power)
    before = [row[1].clone() for row in rows]
    for w, *_ in rows:
        w[0], w[1], w[2] = -3.0, 0.0, float("nan")
    assert triton_step.step(rows, still, g, g, power)
    for (w, v, *_), v_before in zip(rows, before):
        close(w[0], torch.full_like(w[0], -3.0).double())
        close(threshold(v[0].double(), g, power).to(dtype), torch.full_like(w[0], -3.0).double())
        assert (w[1] == 0).all()
        assert v[1].equal(v_before[1].clamp(-g, g))
        assert w[2].isnan().all()
        assert v[3:].equal(v_before[3:])


def test_undisturbed_weights_keep_the_bits_of_v_whatever_the_step_before_left() -> None:
    for power in POWERS:
        rows = tensors(torch.float32, 0)
        triton_step.step(rows, Gradient(0.1), 0.3, 0.0, power)
        before = [row[1].clone() for row in rows]
        triton_step.step(rows, Gradient(0.0), 0.5, 0.3, power)
        assert all(row[1].equal(v) for row, v in zip(rows, before))


def test_scalars_on_the_device_give_the_bits_of_numbers() -> None:
    scalar = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    for rules in (
        (Gradient(0.1, 0.9), Gradient(scalar(0.1), 0.9)),
        (Adam(0.1, 3, weight_decay=0.1), Adam(scalar(0.1), scalar(3.0), weight_decay=0.1)),
    ):
        moments = 1 if isinstance(rules[0], Gradient) else 2
        numbers, on_device = tensors(torch.float32, moments), tensors(torch.float32, moments)
        triton_step.step(numbers, rules[0], 0.3, 0.1, 2.0)
        triton_step.step(on_device, rules[1], scalar(0.3), scalar(0.1), 2.0)
        for a, b in zip(numbers, on_device):
            assert all(x is None or x.equal(y) for x, y in zip(a, b))


def test_gradients_may_move_and_come_in_another_precision() -> None:
    rows = tensors(torch.float32, 0)
    v = [row[1].clone() for row in rows]
    for g_before in (0.0, 0.3):
        grads = [row[2].clone().bfloat16() for row in rows]
        moved = [(row[0], row[1], grad, None, None) for row, grad in zip(rows, grads)]
        assert triton_step.step(moved, Gradient(0.5), 0.3, g_before)
        v = [(a - 0.5 * grad.float()) for a, grad in zip(v, grads)]
        for row, expected in zip(rows, v):
            torch.testing.assert_close(row[1], expected)


def test_a_step_counts_as_a_change_of_the_weights() -> None:
    rows = tensors(torch.float32, 0)
    version = rows[0][0]._version
    triton_step.step(rows, Gradient(0.5), 0.3)
    assert rows[0][0]._version > version


@pytest.mark.parametrize("kind", ["gaps", "order", "negative", "integer", "state"])
def test_what_a_launch_cannot_take_is_left_alone(kind: str) -> None:
    w, grad = torch.ones(6, 4), torch.ones(6, 4)
    v = w.clone()
    if kind == "gaps":
        w = torch.ones(6, 8)[:, ::2]
    elif kind == "order":
        grad = torch.ones(4, 6).t()
    elif kind == "negative":
        grad = torch._neg_view(grad)
    elif kind == "integer":
        grad = grad.int()
    else:
        v = v.double()
    assert not triton_step.step([(w, v, grad, None, None)], Gradient(0.5), 0.3)
    assert (w == 1).all()
    assert (v == 1).all()
