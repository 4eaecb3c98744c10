"""The Triton step in Triton's CPU interpreter, compared with float64 arithmetic.

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

from dirprune import GRDA, AdamGRDA, SparsityPlan, kernels
from dirprune.kernels import triton_step
from dirprune.kernels.rows import Adam, Gradient
from dirprune.optimizer import dual_averaging

POWERS = [1.0, 2.0, 3.0, float("inf"), 1.5]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the kernels again: Triton reads the variable when a kernel is defined."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    _forget_kernels()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        yield
    _forget_kernels()


def _forget_kernels() -> None:
    sys.modules.pop("dirprune.kernels.triton_kernels", None)
    vars(kernels).pop("triton_kernels", None)
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
            # weight decay uses the rounded weights
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


def test_unchanged_weights_keep_the_bits_of_v() -> None:
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


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_every_row_may_have_its_own_threshold(power: float) -> None:
    one, many = tensors(torch.float32, 1), tensors(torch.float32, 1)
    levels = torch.linspace(0.1, 0.5, len(many), dtype=torch.float64)
    zero = torch.zeros_like(levels)
    triton_step.step(many, Gradient(0.1, 0.9), levels, zero, power)
    for row, level in zip(one, levels.tolist()):
        triton_step.step([row], Gradient(0.1, 0.9), level, 0.0, power)
    for a, b in zip(many, one):
        assert all(x is None or x.equal(y) for x, y in zip(a, b))


def test_without_a_rule_only_the_threshold_changes() -> None:
    rows = [(w, v, None, m, None) for w, v, _, m, _ in tensors(torch.bfloat16, 1)]
    v = [row[1].clone() for row in rows]
    assert triton_step.step(rows, None, 0.5, 0.0, 2.0)
    for row, before in zip(rows, v):
        assert row[1].equal(before)
        close(row[0], threshold(before.double(), 0.5, 2.0), 2.0)


def test_gradients_may_change_address_and_precision() -> None:
    rows = tensors(torch.float32, 0)
    v = [row[1].clone() for row in rows]
    for g_before in (0.0, 0.3):
        grads = [row[2].clone().bfloat16() for row in rows]
        moved = [(row[0], row[1], grad, None, None) for row, grad in zip(rows, grads)]
        assert triton_step.step(moved, Gradient(0.5), 0.3, g_before)
        v = [(a - 0.5 * grad.float()) for a, grad in zip(v, grads)]
        for row, expected in zip(rows, v):
            torch.testing.assert_close(row[1], expected)


def test_a_step_increments_the_version_of_the_weights() -> None:
    rows = tensors(torch.float32, 0)
    version = rows[0][0]._version
    triton_step.step(rows, Gradient(0.5), 0.3)
    assert rows[0][0]._version > version


@pytest.mark.parametrize("kind", ["gaps", "order", "negative", "integer", "state"])
def test_unsupported_tensors_are_not_launched(kind: str) -> None:
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


OPTIMIZERS = {
    "law": lambda p, **o: GRDA(p, lr=0.1, c=0.1, momentum=0.9, nesterov=True, **o),
    "sgd": lambda p, **o: GRDA(p, lr=0.1, c=0.0, momentum=0.9, weight_decay=0.1, **o),
    "plan": lambda p, **o: GRDA(p, lr=0.1, plan=SparsityPlan(0.8, steps=8), **o),
    "adam": lambda p, **o: AdamGRDA(p, lr=0.1, plan=SparsityPlan(0.8, steps=8), **o),
}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizers_step_identically_through_triton(name: str) -> None:
    ours, theirs = network(), network()
    a, b = OPTIMIZERS[name](ours.parameters()), OPTIMIZERS[name](theirs.parameters(), fused=False)
    for n in range(10):
        generator = torch.Generator().manual_seed(n)
        for p, q in zip(ours.parameters(), theirs.parameters()):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        if n == 4:  # one parameter falls behind, and another is changed from outside
            ours[0].bias.grad = theirs[0].bias.grad = None
            ours[2].weight.data[0] = theirs[2].weight.data[0] = 0.25
        if n == 6:  # another state takes the place of the present one
            a.load_state_dict(a.state_dict())
        a.step()
        b.step()
        for p, q in zip(ours.parameters(), theirs.parameters()):
            # a weight just above the threshold is the root of a difference near zero
            torch.testing.assert_close(p, q, rtol=1e-4, atol=3e-4)
            torch.testing.assert_close(a.state[p].get("v", p), b.state[q].get("v", q))
            assert a.state[p]["n"] == b.state[q]["n"]
            assert ((p == 0) == (q == 0)).all()


def test_parameters_that_step_together_use_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with monkeypatch.context() as patch:
        patch.setattr(dual_averaging, "advance_group", None)
        optimizer.step()
    assert {state["n"] for state in optimizer.state.values()} == {2}
    model[0].weight.data = torch.ones(40, 30)  # new memory
    optimizer.step()
    assert (model[0].weight < 1).all()


def test_tensors_with_different_thresholds_are_stepped_in_one_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    make = lambda: GRDA(model.parameters(), lr=0.1, plan=SparsityPlan(0.9, steps=8))  # noqa: E731
    optimizer = make()
    for n in range(8):
        generator = torch.Generator().manual_seed(n)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    assert len({state["g"] for state in optimizer.state.values()}) > 1
    assert sum(int((p == 0).sum()) for p in model.parameters()) == round(0.9 * 1363)
    resumed = make()
    resumed.load_state_dict(optimizer.state_dict())
    launches = []
    step = triton_step.Tables.step
    monkeypatch.setattr(
        triton_step.Tables, "step", lambda self, *a: launches.append(1) or step(self, *a)
    )
    weights = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad.zero_()
    resumed.step()
    assert len(launches) == 2  # the step, and the new threshold
    resumed.step()
    assert len(launches) == 4
    assert all(p.equal(w) for p, w in zip(model.parameters(), weights))
