"""GRDA, compared with the reference and torch.optim.SGD; laws of its step."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dirprune import GRDA, threshold_path
from dirprune import batch as batch_module
from dirprune._support import native
from reference.grda_paper import Coordinate
from step import allocated

SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant": lambda n: 0.1,
    "steps": lambda n: 0.1 * 0.1 ** (n // 12),
    "warm-up from zero": lambda n: 0.1 * min(n / 8, 1.0),
    "pauses at zero": lambda n: 0.0 if n % 7 in (2, 3) else 0.2,
}
OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.1},
    {"momentum": 0.5, "weight_decay": 0.01, "maximize": True},
]


@pytest.fixture(params=["torch", "foreach", "chunked", "extension"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Each implementation of the step, as keyword arguments."""
    if request.param == "chunked":
        monkeypatch.setattr(batch_module, "CHUNK", 3)
    if request.param == "extension":
        if native.extension() is None:
            pytest.skip("the C++ extension is not built here")
        return {"fused": True}
    return {"foreach": True} if request.param == "foreach" else {"fused": False}


def gradient(step: int, index: int, shape: torch.Size) -> Tensor | None:
    """Fixed noise; parameter 1 starts late, 2 is intermittent, 3 is frozen halfway."""
    absent = {1: step < 9, 2: step % 3 == 1, 3: step >= 15}.get(index, False)
    if absent:
        return None
    generator = torch.Generator().manual_seed(1000 * step + index)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_reference(
    options: dict, schedule: str, dtype: torch.dtype, path: dict[str, bool]
) -> None:
    # two vectors are concatenated; (16, 8) is long enough for the SIMD code of softshrink
    shapes = [(16, 8), (5,), (2, 2, 3), (3, 1), (7,), (6,)]
    starts = [torch.linspace(-0.4, 0.5, math.prod(s), dtype=dtype).view(s) for s in shapes]
    weights = [nn.Parameter(w.clone()) for w in starts]
    groups = [
        {"params": [*weights[:3], weights[5]], "c": 0.5, "mu": 0.51},
        {"params": weights[3:4], "c": 0.2, "mu": 1.0},
        {"params": weights[4:5], "c": 0.0},
    ]
    optimizer = GRDA(groups, lr=0.1, mu=0.7, **options, **path)
    twins = [[Coordinate(x) for x in w.flatten().tolist()] for w in starts]
    constants = [(0.5, 0.51)] * 3 + [(0.2, 1.0), (0.0, 0.7), (0.5, 0.51)]
    for step in range(25):
        lr = SCHEDULES[schedule](step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for index, w in enumerate(weights):
            d = gradient(step, index, w.shape)
            w.grad = None if d is None else d.to(dtype)
            if w.grad is not None:
                c, mu = constants[index]
                for twin, each in zip(twins[index], w.grad.flatten().tolist()):
                    twin.step(each, lr=lr, c=c, mu=mu, **options)
        optimizer.step()
        for w, coordinates in zip(weights, twins):
            expected = torch.tensor([t.w for t in coordinates], dtype=dtype).view(w.shape)
            tolerance = 1e-12 if dtype == torch.float64 else 5e-6
            torch.testing.assert_close(w.detach(), expected, atol=tolerance, rtol=tolerance)
    largest = [max(t.g for twin in twins[i:j] for t in twin) for i, j in [(0, 3), (3, 4), (4, 5)]]
    assert optimizer.thresholds() == pytest.approx(largest, rel=1e-12)
    assert sum(int((w == 0).sum()) for w in weights) > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay", "maximize"),
    [o for o in itertools.product([0.0, 0.9], [False, True], [0.0, 0.1], [False, True])
     if o[0] or not o[1]],
)  # fmt: skip
@pytest.mark.parametrize("foreach", [None, True])
def test_without_threshold_it_equals_sgd(
    momentum: float, nesterov: bool, weight_decay: float, maximize: bool, foreach: bool | None,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    start = [torch.randn(50, 41, dtype=dtype), torch.randn(3, dtype=dtype)]
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a = GRDA(ours, lr=0.1, c=0, maximize=maximize, foreach=foreach, **options)
    b = torch.optim.SGD(theirs, lr=0.1, maximize=maximize, foreach=False, **options)
    for step in range(10):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape, dtype=dtype)
            q.grad = p.grad.clone()
        a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.1 / (step + 1)
        a.step()
        b.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs))
    assert all("v" not in a.state[p] for p in ours)


def test_momentum_thresholds_with_the_effective_rate() -> None:
    heavy, plain = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    a = GRDA([heavy], lr=0.1, momentum=0.9, c=0.01, mu=0.6)
    b = GRDA([plain], lr=1.0, c=0.01, mu=0.6)
    for _ in range(30):
        heavy.grad = plain.grad = torch.zeros(1)
        a.step()
        b.step()
    assert a.thresholds() == pytest.approx(b.thresholds(), rel=1e-12)


def test_momentum_and_its_effective_rate_leave_the_same_zeros_on_a_quadratic() -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(2000, generator=generator) * 0.1
    curvature = 0.01 + 0.04 * torch.rand(2000, generator=generator)
    sparsity = []
    for lr, momentum in [(0.1, 0.9), (1.0, 0.0)]:
        w = nn.Parameter(torch.zeros(2000))
        optimizer = GRDA([w], lr=lr, momentum=momentum, c=0.004, mu=0.55)
        for _ in range(400):
            noise = torch.randn(2000, generator=generator) * 0.01
            w.grad = curvature * (w.detach() - target) + noise
            optimizer.step()
        sparsity.append(float((w == 0).float().mean()))
    assert 0.2 < sparsity[1] < 0.8
    assert sparsity[0] == pytest.approx(sparsity[1], abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("foreach", [None, True])
def test_zeros_are_positive_and_gradients_untouched(
    dtype: torch.dtype, foreach: bool | None
) -> None:
    w = nn.Parameter((torch.randn(67, 5) * 0.01).to(dtype))
    optimizer = GRDA([w], lr=0.1, c=0.1, mu=0.5, foreach=foreach)
    for _ in range(6):
        w.grad = (torch.randn(67, 5) * 0.05).to(dtype)
        before = w.grad.clone()
        optimizer.step()
        assert torch.equal(w.grad, before)
        zero = w == 0
        assert zero.any()
        assert not w.detach()[zero].signbit().any()
        assert w.isfinite().all()


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_rounded_float32_step(
    dtype: torch.dtype, foreach: bool | None
) -> None:
    options = {"lr": 0.1, "c": 0.5, "mu": 0.6, "momentum": 0.9, "nesterov": True}
    options |= {"weight_decay": 0.01}
    start = torch.linspace(-0.5, 0.5, 64).to(dtype)
    w = nn.Parameter(start.clone())
    optimizer = GRDA([w], foreach=foreach, **options)
    twins = [Coordinate(x) for x in start.tolist()]
    for n in range(10):
        w.grad = gradient(n, 0, w.shape).to(dtype)
        for twin, each, seen in zip(twins, w.grad.tolist(), w.tolist()):
            twin.w = seen  # the weights the gradient belongs to are rounded ones
            twin.step(each, **options)
        optimizer.step()
        v = optimizer.state[w]["v"]
        assert v.dtype == torch.float32
        torch.testing.assert_close(v, torch.tensor([t.v for t in twins]), atol=1e-5, rtol=1e-5)
        exact = torch.tensor([t.w for t in twins])
        torch.testing.assert_close(w.detach().float(), exact, atol=4e-3, rtol=8e-3)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_length_and_no_layout_leaves_a_negative_zero(dtype: torch.dtype, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shapes = [(n, 1) for n in range(1, 70)] + [(100_003, 1), (64, 64), (96, 1024)]
        weights = [nn.Parameter(torch.full(s, -0.01, dtype=dtype)) for s in shapes]
        weights += [nn.Parameter(torch.full((n,), -0.01, dtype=dtype)) for n in (1, 3, 40_001)]
        image = torch.full((16, 16, 3, 3), -0.01, dtype=dtype)
        weights.append(nn.Parameter(image.to(memory_format=torch.channels_last)))
        optimizer = GRDA(weights, lr=0.1, c=10.0)
        for w in weights:
            w.grad = torch.zeros_like(w)
        optimizer.step()
        assert all(not w.detach().signbit().any() for w in weights)
        assert all((w == 0).all() for w in weights)
    finally:
        torch.set_num_threads(before)


def test_half_precision_accumulates_updates_below_the_rounding_of_the_weights() -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = GRDA([w], lr=1e-4, c=1e-6, mu=0.5)
    for _ in range(1000):
        w.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step()
    assert optimizer.state[w]["v"].dtype == torch.float32
    torch.testing.assert_close(w.detach().float(), torch.full((4,), 0.9), atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ],
    ids=str,
)
def test_a_step_allocates_no_more_than_a_chunk(
    options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "CHUNK", 50_000)
    weights = [nn.Parameter(torch.randn(s)) for s in [(1, 400_000), (500, 400), (300_000,)]]
    for w in weights:
        w.grad = torch.randn_like(w)
    optimizer = GRDA(weights, lr=0.1, c=0.1, **options)
    optimizer.step()
    chunk = 50_000 * 4
    # without weight decay only the sample that detects outside changes
    assert allocated(optimizer.step) <= (1.1 if "weight_decay" in options else 0.4) * chunk


@pytest.mark.parametrize("layout", ["channels last", "transposed", "strided gradient"])
def test_memory_formats_do_not_matter(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "CHUNK", 40)
    start, d = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    plain, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    if layout == "channels last":
        other = nn.Parameter(start.clone(memory_format=torch.channels_last))
    elif layout == "transposed":
        other = nn.Parameter(start.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3))
    plain.grad = d
    other.grad = d.transpose(2, 3).contiguous().transpose(2, 3)
    optimizers = [GRDA([p], lr=0.1, c=0.5) for p in (plain, other)]
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(plain, other)
    assert other.stride() == optimizers[1].state[other]["v"].stride()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 7)])
def test_odd_shapes(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "CHUNK", 4)
    w = nn.Parameter(torch.full(shape, 0.01))
    optimizer = GRDA([w], lr=0.1, c=1.0)
    w.grad = torch.ones(shape)
    optimizer.step()
    assert torch.equal(w.detach(), torch.zeros(shape))


@settings(max_examples=50)
@given(
    c=st.floats(0, 10),
    mu=st.floats(0.01, 1),
    lr=st.floats(1e-4, 10),
    steps=st.integers(1, 50),
)
def test_a_constant_rate_gives_the_papers_closed_form(
    c: float, mu: float, lr: float, steps: int
) -> None:
    closed = c * lr**0.5 * (steps * lr) ** mu
    w = nn.Parameter(torch.ones(1))
    optimizer = GRDA([w], lr=lr, c=c, mu=mu)
    for _ in range(steps):
        w.grad = torch.zeros(1)
        optimizer.step()
    assert optimizer.thresholds()[0] == pytest.approx(closed, rel=1e-9, abs=1e-300)
    assert float(threshold_path(c, mu, [lr] * steps)[-1]) == pytest.approx(closed, rel=1e-9)


def test_a_rate_in_a_tensor_hooks_and_changes_of_c_and_mu_work() -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 64).view(8, 8))
    optimizer = GRDA([w], lr=torch.tensor(0.1), c=0.0)
    twins = [Coordinate(x) for x in w.flatten().tolist()]
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    for n, (c, mu) in enumerate([(0.0, 0.5), (0.3, 0.5), (0.3, 0.8), (0.0, 0.8), (0.1, 0.6)]):
        optimizer.param_groups[0].update(c=c, mu=mu)
        w.grad = gradient(n, 0, w.shape).float()
        for twin, each in zip(twins, w.grad.flatten().tolist()):
            twin.step(each, lr=float(torch.tensor(0.1)), c=c, mu=mu)
        optimizer.step()
        expected = torch.tensor([t.w for t in twins]).view(8, 8)
        torch.testing.assert_close(w.detach(), expected, atol=1e-6, rtol=1e-5)
    assert len(calls) == 5
