"""GRDA against the reference, against torch.optim.SGD, and against its own laws."""

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler

from dirprune import GRDA, param_groups, soft_threshold, threshold_path
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
    """Every way in which a step can be computed, as keyword arguments."""
    if request.param == "chunked":
        monkeypatch.setattr(batch_module, "CHUNK", 3)
    if request.param == "extension":
        if native.extension() is None:
            pytest.skip("the C++ extension is not built here")
        return {"fused": True}
    return {"foreach": True} if request.param == "foreach" else {"fused": False}


def gradient(step: int, index: int, shape: torch.Size) -> Tensor | None:
    """Fixed noise; parameter 1 joins late, 2 is intermittent, 3 is frozen half-way."""
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
    # two vectors are joined; (16, 8) is long enough for softshrink's SIMD part
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
def test_without_threshold_it_is_sgd(
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


def test_a_state_of_another_memory_format_is_adopted() -> None:
    one, two = (nn.Parameter(torch.randn(64, 64, 3, 3) * 1e-3) for _ in range(2))
    one = nn.Parameter(one.detach().to(memory_format=torch.channels_last))
    a, b = GRDA([one], c=100.0), GRDA([two], c=100.0)
    one.grad = two.grad = torch.zeros(64, 64, 3, 3)
    a.step()
    b.load_state_dict(a.state_dict())
    b.step()
    assert b.state[two]["v"].stride() == two.stride()
    assert not two.detach().signbit().any()


def test_half_precision_keeps_what_its_weights_would_lose() -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = GRDA([w], lr=1e-4, c=1e-6, mu=0.5)
    for _ in range(1000):
        w.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step()
    assert optimizer.state[w]["v"].dtype == torch.float32
    torch.testing.assert_close(w.detach().float(), torch.full((4,), 0.9), atol=4e-3, rtol=0)


def toy(dtype: torch.dtype = torch.float32, **options: float) -> tuple[nn.Module, GRDA, Callable]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
    optimizer = GRDA(model.parameters(), lr=0.2, c=0.05, mu=0.6, **options)

    def step(n: int) -> None:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(n)).to(dtype)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return model, optimizer, step


def through_torch_save(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=str)
@pytest.mark.parametrize("trip", [copy.deepcopy, through_torch_save])
def test_state_dict_resumes_bit_for_bit(
    dtype: torch.dtype, options: dict, trip: Callable[[dict], dict]
) -> None:
    model, optimizer, step = toy(dtype, **options)
    for n in range(5):
        step(n)
    weights, state = trip(model.state_dict()), trip(optimizer.state_dict())
    for n in range(5, 10):
        step(n)
    model2, optimizer2, step2 = toy(dtype, **options)
    model2.load_state_dict(weights)
    optimizer2.load_state_dict(state)
    for n in range(5, 10):
        step2(n)
    for p, q in zip(model.parameters(), model2.parameters()):
        assert torch.equal(p, q)
        assert torch.equal(optimizer.state[p]["v"], optimizer2.state[q]["v"])
        assert optimizer2.state[q]["n"] == 10
    assert optimizer.thresholds() == optimizer2.thresholds()


def test_state_of_other_shapes_is_refused_before_anything_changes() -> None:
    a, b = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))
    one, two = GRDA([a]), GRDA([b])
    for optimizer, w in ((one, a), (two, b)):
        w.grad = torch.ones_like(w)
        optimizer.step()
    before = copy.deepcopy(two.state_dict())
    with pytest.raises(ValueError, match=r"saved v has shape \(4, 3\), the parameter \(3,\)"):
        two.load_state_dict(one.state_dict())
    assert torch.equal(before["state"][0]["v"], two.state_dict()["state"][0]["v"])


def test_load_hooks_see_and_change_what_is_loaded() -> None:
    _, optimizer, step = toy()
    step(0)
    seen = []

    def double(_: torch.optim.Optimizer, state: dict) -> dict:
        state = copy.deepcopy(state)
        state["state"][0]["v"] *= 2
        return state

    optimizer.register_load_state_dict_pre_hook(double)
    first = optimizer.param_groups[0]["params"][0]
    optimizer.register_load_state_dict_post_hook(
        lambda o: seen.append(o.state[first]["v"].clone())
    )
    v = optimizer.state[first]["v"].clone()
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(optimizer.state[first]["v"], 2 * v)
    assert torch.equal(seen[0], 2 * v)


def test_state_of_several_groups_loads_into_an_optimizer_with_the_same() -> None:
    def build() -> tuple[list[nn.Parameter], GRDA]:
        weights = [nn.Parameter(torch.linspace(-1, 1, 5 + n)) for n in range(3)]
        optimizer = GRDA([{"params": weights[:1], "c": 0.0}, {"params": weights[1:2]}], c=0.1)
        optimizer.add_param_group({"params": weights[2:], "mu": 0.9})
        return weights, optimizer

    def advance(weights: list[nn.Parameter], optimizer: GRDA) -> None:
        for w in weights:
            w.grad = w.detach().cos()
        optimizer.step()

    (a, one), (b, two) = build(), build()
    advance(a, one)
    two.load_state_dict(one.state_dict())
    for x, y in zip(a, b):
        y.data.copy_(x.data)
    advance(a, one)
    advance(b, two)
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert one.thresholds() == two.thresholds()


def test_after_the_state_of_sgd_it_starts_afresh() -> None:
    w = nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones(3)
    sgd.step()
    optimizer = GRDA([w], lr=0.1, momentum=0.9)
    optimizer.load_state_dict({"state": sgd.state_dict()["state"], "param_groups":
                               optimizer.state_dict()["param_groups"]})  # fmt: skip
    assert optimizer.thresholds() == [0.0]
    optimizer.step()
    assert optimizer.state[w]["n"] == 1


def test_good_weights_can_be_put_back_after_a_divergence() -> None:
    w = nn.Parameter(torch.tensor([0.0, 1.0, 0.0, -2.0]))
    good = w.detach().clone()
    optimizer = GRDA([w], lr=0.1, c=0.05, momentum=0.9)
    w.grad = torch.full((4,), math.nan)
    optimizer.step()
    assert w.isnan().all()
    with torch.no_grad():
        w.copy_(good)
    optimizer.reset_from_weights()
    w.grad = torch.zeros(4)
    optimizer.step()
    assert torch.equal(w == 0, good == 0)
    torch.testing.assert_close(w.detach(), good, atol=0.1, rtol=0)


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


def test_a_bad_group_is_found_before_any_weight_moves() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = GRDA([{"params": [a]}, {"params": [b]}])
    a.grad = b.grad = torch.ones(2)
    optimizer.param_groups[1]["mu"] = 2.0
    with pytest.raises(ValueError, match="mu must lie"):
        optimizer.step()
    assert torch.equal(a.detach(), torch.ones(2))
    assert optimizer.thresholds() == [0.0, 0.0]
    with pytest.raises(ValueError, match="c must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "c": -1.0})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(("option", "value"), [("lr", "0.1"), ("c", None), ("mu", "half"),
                                               ("lr", torch.tensor([0.1, 0.2]))])  # fmt: skip
def test_options_that_are_no_numbers_are_refused(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a number"):
        GRDA([nn.Parameter(torch.ones(1))], **{option: value})


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
    # without weight decay only the sample that looks for changes from outside
    assert allocated(optimizer.step) <= (1.1 if "weight_decay" in options else 0.4) * chunk


def test_loaded_state_shares_no_memory() -> None:
    _, optimizer, step = toy()
    step(0)
    _, other, _ = toy()
    other.load_state_dict(optimizer.state_dict())
    v = optimizer.param_groups[0]["params"][0]
    w = other.param_groups[0]["params"][0]
    assert optimizer.state[v]["v"].data_ptr() != other.state[w]["v"].data_ptr()


@pytest.mark.parametrize("trip", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_continue_alike(trip: Callable) -> None:
    _, optimizer, step = toy(momentum=0.9)
    for n in range(3):
        step(n)
    twin = trip(optimizer)
    for group, other in zip(optimizer.param_groups, twin.param_groups):
        for p, q in zip(group["params"], other["params"]):
            p.grad = torch.ones_like(p)
            q.grad = torch.ones_like(q)
    optimizer.step()
    twin.step()
    for p, q in zip(optimizer.param_groups[0]["params"], twin.param_groups[0]["params"]):
        assert torch.equal(p, q)


def test_reset_from_weights_adopts_them() -> None:
    model, optimizer, step = toy()
    for n in range(20):
        step(n)
    new = {k: torch.where(torch.rand_like(v) < 0.3, 0, v + 0.5) for k, v in
           model.state_dict().items()}  # fmt: skip
    model.load_state_dict(new)
    optimizer.reset_from_weights()
    for name, p in model.named_parameters():
        v, g = optimizer.state[p]["v"], optimizer.state[p]["g"]
        torch.testing.assert_close(soft_threshold(v, g), new[name], atol=1e-6, rtol=0)
        assert torch.equal(soft_threshold(v, g) == 0, new[name] == 0)
        assert optimizer.state[p]["n"] == 20


def test_reset_from_weights_moves_v_as_little_as_possible() -> None:
    w = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    optimizer = GRDA([w], lr=1.0, c=0.5, mu=0.5)
    w.grad = torch.tensor([0.2, -0.9, 0.7, 0.0])
    optimizer.step()
    with torch.no_grad():
        w.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0]))
    optimizer.reset_from_weights()
    expected = torch.tensor([-0.2, 0.5, -0.5, -1.5])
    torch.testing.assert_close(optimizer.state[w]["v"], expected)


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


def test_one_state_tensor_a_parameter_and_two_with_momentum() -> None:
    for momentum, tensors in [(0.0, 1), (0.9, 2)]:
        w = nn.Parameter(torch.ones(3))
        optimizer = GRDA([w], momentum=momentum)
        w.grad = torch.ones(3)
        optimizer.step()
        assert sum(isinstance(x, Tensor) for x in optimizer.state[w].values()) == tensors


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


BAD_OPTIONS = [
    ({"lr": -0.1}, "lr must be at least 0 and finite, got -0.1"),
    ({"lr": math.nan}, "lr must be"),
    ({"lr": math.inf}, "lr must be"),
    ({"c": -1e-3}, "c must be"),
    ({"c": math.nan}, "c must be"),
    ({"mu": 0.0}, r"mu must lie in \(0, 1\], got 0.0"),
    ({"mu": 1.1}, "mu must lie"),
    ({"mu": math.nan}, "mu must lie"),
    ({"momentum": 1.0}, "momentum must lie"),
    ({"momentum": -0.1}, "momentum must lie"),
    ({"weight_decay": -1.0}, "weight_decay must be"),
    ({"nesterov": True}, "nesterov needs momentum"),
    ({"foreach": True, "fused": True}, "exclude each other"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=str)
def test_bad_options_are_refused_at_once_and_later(options: dict, message: str) -> None:
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        GRDA([w], **options)
    optimizer = GRDA([w])
    w.grad = torch.ones(2)
    optimizer.param_groups[0].update(options)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(w.detach(), torch.ones(2))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], **options})


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        GRDA([])
    with pytest.raises(TypeError, match="GRDA needs real parameters"):
        GRDA([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = GRDA(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="GRDA needs dense gradients"):
        optimizer.step()


def test_fused_without_the_extension_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "grda_step", lambda: None)
    with pytest.raises(ValueError, match=r"needs dirprune's C\+\+ extension"):
        GRDA([nn.Parameter(torch.ones(2))], fused=True)


def test_param_groups_choose_what_is_thresholded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    assert [len(g["params"]) for g in param_groups(model)] == [6]
    assert [len(g["params"]) for g in param_groups(model, "weights")] == [2, 4]
    only = param_groups(model, lambda name, parameter: name.startswith("3"))
    assert [(len(g["params"]), g.get("c")) for g in only] == [(2, None), (4, 0.0)]
    tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight
    assert [len(g["params"]) for g in param_groups(tied)] == [3]
    with pytest.raises(ValueError, match='prune must be "all"'):
        param_groups(model, "some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        param_groups(nn.ReLU())


@settings(max_examples=50, deadline=None)
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
