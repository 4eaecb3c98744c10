"""Every implementation of the step adopts changes that other code makes to the weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dirprune import GRDA, AdamGRDA, SparsityPlan
from dirprune._support import native
from dirprune.changes import adopt_concatenated
from dirprune.kernels.rows import Row

PATHS = {
    "fused": {},
    "torch": {"fused": False},
    "foreach": {"foreach": True},
    "momentum": {"momentum": 0.9, "nesterov": True},
    "square root": {"power": 2.0},
    "plan": {"plan": True},
    "adam": {"adam": True},
}


def build(w: nn.Parameter, options: dict) -> torch.optim.Optimizer:
    options = dict(options)
    if options.pop("adam", False):
        return AdamGRDA([w], lr=0.01, c=1.0, **options)
    if options.pop("plan", False):
        options["plan"] = SparsityPlan(0.5, steps=6)
    return GRDA([w], lr=0.1, c=0.5, **options)


def run(w: nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for n in steps:
        generator = torch.Generator().manual_seed(n)
        w.grad = (0.2 * torch.randn(w.shape, generator=generator)).to(w.dtype)
        optimizer.step()


def still(w: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """Take a step that hardly moves the weights: the written values must remain."""
    for group in optimizer.param_groups:
        group["lr"] = 1e-6
    w.grad = torch.zeros_like(w)
    for state in optimizer.state.values():
        for name in ("momentum_buffer", "exp_avg"):
            if name in state:
                state[name].zero_()
    optimizer.step()


def assigned(w: nn.Parameter, new: Tensor) -> None:
    with torch.no_grad():
        w.copy_(new)


def behind(w: nn.Parameter, new: Tensor) -> None:
    w.data.copy_(new)


def replaced(w: nn.Parameter, new: Tensor) -> None:
    w.data = new.clone()


def swapped(w: nn.Parameter, new: Tensor) -> None:
    w.detach().view(-1)[:] = new.view(-1)


@pytest.mark.parametrize("write", [assigned, behind, replaced, swapped])
@pytest.mark.parametrize("path", PATHS)
def test_the_next_step_starts_from_the_written_weights(
    path: str, write: Callable[[nn.Parameter, Tensor], None]
) -> None:
    if path == "fused" and native.extension() is None:
        pytest.skip("the C++ extension is not built here")
    w = nn.Parameter(torch.linspace(-1, 1, 90 * 60).view(90, 60))
    optimizer = build(w, PATHS[path])
    run(w, optimizer, range(4))
    new = torch.randn(90, 60, generator=torch.Generator().manual_seed(9))
    new[::3] = 0.0
    write(w, new)
    if path == "plan":  # its quantile goes by the new weights: zeros that were written stay
        optimizer.param_groups[0]["plan"].sparsity = 1 / 3
    still(w, optimizer)
    torch.testing.assert_close(w.detach(), new, atol=2e-3, rtol=1e-3)
    if path != "plan":
        assert torch.equal(w == 0, new == 0)


@pytest.mark.parametrize("path", PATHS)
def test_swapping_weights_and_back_leaves_every_bit(path: str) -> None:
    runs = []
    for swap in (False, True):
        w = nn.Parameter(torch.linspace(-1, 1, 5000))
        optimizer = build(w, PATHS[path])
        for n in range(8):
            run(w, optimizer, range(n, n + 1))
            if swap:
                kept = w.detach().clone()
                assigned(w, torch.full_like(kept, 7.0))
                assigned(w, kept)
        runs.append((w, optimizer.state[w]["v"]))
    assert all(torch.equal(a, b) for a, b in zip(*runs))


@pytest.mark.parametrize("path", PATHS)
def test_only_the_entries_that_changed_are_adopted(path: str) -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 300))
    optimizer = build(w, PATHS[path])
    run(w, optimizer, range(3))
    twin_w = nn.Parameter(w.detach().clone())
    twin = build(twin_w, PATHS[path])
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        w[10:20] = 0.7
    if path == "plan":
        for o in (optimizer, twin):
            o.param_groups[0]["plan"].sparsity = 0.0
    run(w, optimizer, range(3, 4))
    run(twin_w, twin, range(3, 4))
    same = torch.ones(300, dtype=torch.bool)
    same[10:20] = False
    assert torch.equal(w.detach()[same], twin_w.detach()[same])
    assert not torch.equal(w, twin_w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 500).to(dtype))
    optimizer = GRDA([w], lr=0.1, c=0.5)
    run(w, optimizer, range(3))
    v = optimizer.state[w]["v"].clone()
    assigned(w, w.detach().clone())
    optimizer.param_groups[0]["lr"] = 0.0
    run(w, optimizer, range(1))
    assert torch.equal(optimizer.state[w]["v"], v)  # rounding of w is no change
    new = torch.full_like(w, 0.25)
    assigned(w, new)
    run(w, optimizer, range(1))
    assert torch.equal(w.detach(), new)


def test_reloading_the_best_checkpoint() -> None:
    model = nn.Linear(30, 30)
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.05, momentum=0.9)
    best = copy.deepcopy(model.state_dict())
    for n in range(10):
        model.zero_grad()
        model(torch.randn(8, 30, generator=torch.Generator().manual_seed(n))).sum().backward()
        optimizer.step()
    model.load_state_dict(best)
    still(model.weight, optimizer)
    torch.testing.assert_close(model.weight.detach(), best["weight"], atol=1e-4, rtol=1e-4)


def test_weight_averaging_lookahead_and_clamping() -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 400))
    optimizer = GRDA([w], lr=0.1, c=0.05)
    slow = w.detach().clone()
    for n in range(12):
        run(w, optimizer, range(n, n + 1))
        if n % 3 == 2:  # Lookahead
            slow.lerp_(w.detach(), 0.5)
            assigned(w, slow)
        with torch.no_grad():  # WGAN
            w.clamp_(-0.3, 0.3)
    still(w, optimizer)
    assert w.abs().max() <= 0.3001


def test_a_large_tensor_written_through_data_is_detected() -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 1 << 18))
    optimizer = GRDA([w], lr=0.1, c=0.05)
    run(w, optimizer, range(3))
    w.data.mul_(0.5)
    new = w.detach().clone()
    still(w, optimizer)
    torch.testing.assert_close(w.detach(), new, atol=1e-4, rtol=1e-4)


def test_a_parameter_without_gradient_keeps_written_values() -> None:
    a, b = (nn.Parameter(torch.linspace(-1, 1, 100)) for _ in range(2))
    optimizer = GRDA([a, b], lr=0.1, plan=SparsityPlan(0.25, steps=4))
    for _ in range(4):
        a.grad, b.grad = torch.zeros(100), torch.zeros(100)
        optimizer.step()
    with torch.no_grad():
        b.copy_(torch.linspace(3, 4, 100))
    b.grad = None
    optimizer.step()
    assert (b > 2.5).all()


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("size", [4097, 5000, 70_001])
def test_a_tensor_that_is_overwritten_as_a_unit_is_detected_at_every_step(
    size: int, fused: bool | None
) -> None:
    w = nn.Parameter(torch.zeros(size))
    w.grad = torch.zeros(size)
    optimizer = GRDA([w], lr=0.1, c=0.01, fused=fused)
    optimizer.step()
    for _ in range(70):
        before = optimizer.state[w]["g"]
        w.data = w.data.fill_(1.0)  # same memory, same version
        optimizer.step()
        expected = 1.0 + before - optimizer.state[w]["g"]
        torch.testing.assert_close(w.detach(), torch.full((size,), expected))


def test_rows_of_all_shapes_are_adopted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dirprune.changes.CHUNK", 8)
    channels_last = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)
    shapes = [torch.zeros(()), torch.zeros(0, 3), torch.zeros(3, 4), channels_last, torch.zeros(5)]
    rows = [Row(w.clone(), torch.full_like(w, 0.25), None, None, None) for w in shapes]
    rows[2].w[1, 2] = -2.0
    rows[3].w[1, 2, 0, 1] = 3.0
    rows[4].v[3] = 9.0  # its weight was set to zero from outside
    adopt_concatenated(rows, 1.0, 1.0)
    expected = [torch.full(w.shape, 0.25) for w in shapes]
    expected[2][1, 2] = -3.0
    expected[3][1, 2, 0, 1] = 4.0
    expected[4][3] = 1.0
    assert [row.v.tolist() for row in rows] == [v.tolist() for v in expected]
    assert rows[3].v.is_contiguous(memory_format=torch.channels_last)


def test_an_empty_group_is_accepted() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = GRDA([{"params": []}, {"params": [w]}])
    w.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.thresholds()[0] == 0.0 < optimizer.thresholds()[1]
