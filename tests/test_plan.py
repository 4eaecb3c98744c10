"""Sparsity plans: exact at the end, for all groups and powers, and when interrupted."""

import copy
import logging
import math
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from dirprune import GRDA, AdamGRDA, SparsityPlan, quantile, tensor_thresholds
from dirprune import plan as plan_module
from dirprune.quantile import flat, kth_magnitude, kth_magnitude_near, kth_magnitude_of_vector
from reference.dual_averaging import planned_sparsity


def network(seed: int = 0, width: int = 40) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 30), nn.Linear(30, 1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for n in steps:
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(n))
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True).sin()).square().mean().backward()
        optimizer.step()


def zeros(*parameters: torch.Tensor) -> int:
    return sum(int((p == 0).sum()) for p in parameters)


MAKERS = {
    "sgd": lambda p, plan, **o: GRDA(p, lr=0.05, momentum=0.9, plan=plan, **o),
    "adam": lambda p, plan, **o: AdamGRDA(p, lr=0.01, weight_decay=0.01, plan=plan, **o),
}


def large_run(
    monkeypatch: pytest.MonkeyPatch, plan: SparsityPlan, noise: float, steps: int
) -> tuple[list[float], int]:
    """Errors of the sparsity after the plan's end, in shares, and the number of updates."""
    monkeypatch.setattr(plan_module, "EVERY_STEP", 100)
    updates = mock.Mock(wraps=tensor_thresholds.tensor_thresholds)
    monkeypatch.setattr(plan_module, "tensor_thresholds", updates)
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(200, 250))
    optimizer, errors = GRDA([w], lr=noise, plan=plan), []
    for n in range(1, steps + 1):
        w.grad = torch.randn(200, 250)
        optimizer.step()
        if n == math.ceil(plan.end * plan.steps):
            updates.reset_mock()
        if n >= plan.end * plan.steps:
            errors.append(abs(zeros(w) / w.numel() - plan.sparsity))
    return errors, updates.call_count


@pytest.mark.parametrize("end", [0.3, 1.0])
def test_a_large_model_reaches_its_target_although_steps_are_skipped(
    monkeypatch: pytest.MonkeyPatch, end: float
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(plan_module, "SAMPLE", 10_000)
    monkeypatch.setattr(plan_module, "EVERY_STEP", 100)
    w = nn.Parameter(torch.randn(200, 250))
    optimizer = GRDA([w], lr=0.1, plan=SparsityPlan(0.9, steps=40, end=end))
    for _ in range(38):
        w.grad = w.detach() + torch.randn(200, 250)
        optimizer.step()
    path = 0.9 * (1 - (2 / 40) ** 3 * (end == 1))
    assert zeros(w) == round(path * w.numel())


def test_the_updates_of_a_large_model_follow_its_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, updates = large_run(monkeypatch, SparsityPlan(0.9, steps=150, end=0.1), 3e-3, 130)
    assert 0 < max(errors) < 2e-3
    assert 115 // 6 <= updates <= 115 // 4
    assert errors.count(0) >= updates
    errors, updates = large_run(monkeypatch, SparsityPlan(0.9, steps=150, end=0.1), 1e-6, 130)
    assert max(errors) < 1e-4
    assert 115 // 16 <= updates <= 115 // 16 + 3


@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40),
    place=st.floats(0, 1),
    near=st.floats(0, 5),
)
def test_a_guess_does_not_change_the_kth_magnitude(
    values: list[float], place: float, near: float
) -> None:
    tensors = [torch.tensor([*values, math.nan]), -torch.tensor(values[::2])]  # NaN is last
    everything = sorted(map(abs, values + values[::2]))
    k = max(1, round(place * len(everything)))
    for guess in (near, everything[k - 1]):
        assert float(kth_magnitude_near(tensors, k, guess)) == everything[k - 1]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("power", [1.0, None, 3.0, math.inf])
@pytest.mark.parametrize("sparsity", [0.5, 0.97])
def test_the_target_is_hit_at_the_end_and_kept(
    maker: str, power: float | None, sparsity: float
) -> None:
    model = network()
    weights = list(model.parameters())
    total = sum(p.numel() for p in weights)
    optimizer = MAKERS[maker](weights, SparsityPlan(sparsity, steps=40), power=power)
    train(model, optimizer, range(20))
    assert zeros(*weights) < round(sparsity * total)
    train(model, optimizer, range(20, 30))
    for n in range(30, 45):
        assert zeros(*weights) == round(sparsity * total)
        train(model, optimizer, range(n, n + 1))
    assert not any(p.detach()[p == 0].signbit().any() for p in weights)


@pytest.mark.parametrize("begin", [0.0, 0.3])
def test_the_path_is_cubic(begin: float) -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 1000, dtype=torch.float64) + 1e-4)
    optimizer = GRDA([w], plan=SparsityPlan(0.9, steps=50, begin=begin, end=0.8))
    for step in range(1, 51):
        w.grad = torch.zeros_like(w)
        optimizer.step()
        assert zeros(w) == round(1000 * planned_sparsity(0.9, step, 50, begin, 0.8))


def test_groups_share_a_plan_or_have_their_own() -> None:
    model = network()
    a, b, c = (list(model[i].parameters()) for i in (0, 2, 3))
    shared, own = SparsityPlan(0.8, steps=20), SparsityPlan(0.4, steps=20)
    groups = [{"params": a, "plan": shared}, {"params": b, "plan": shared, "lr": 0.02},
              {"params": c, "plan": own}]  # fmt: skip
    train(model, GRDA(groups, lr=0.05), range(20))
    assert zeros(*a, *b) == round(0.8 * sum(p.numel() for p in a + b))
    assert zeros(*c) == round(0.4 * 31)


def test_a_group_with_c_zero_stays_dense_beside_a_plan() -> None:
    model = network()
    a, b = list(model[0].parameters()), list(model[2].parameters())
    optimizer = GRDA([{"params": a}, {"params": b, "c": 0.0}], plan=SparsityPlan(0.8, steps=10))
    train(model, optimizer, range(10))
    assert (zeros(*a), zeros(*b)) == (round(0.8 * 520), 0)
    assert "v" not in optimizer.state[b[0]]


@pytest.mark.parametrize("maker", MAKERS)
def test_a_resumed_run_has_the_same_bits(maker: str) -> None:
    runs = []
    for _ in range(2):
        model = network()
        runs.append((model, MAKERS[maker](model.parameters(), SparsityPlan(0.9, steps=30))))
    (one, a), (two, b) = runs
    train(one, a, range(17))
    two.load_state_dict(one.state_dict())
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    assert b.param_groups[0]["plan"] is not a.param_groups[0]["plan"]
    for model, optimizer in runs:
        train(model, optimizer, range(17, 30))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))
    assert a.thresholds() == b.thresholds()


def test_a_saved_plan_is_restored_where_there_was_none_and_stays_shared() -> None:
    plan = SparsityPlan(0.9, steps=30, begin=0.1, end=0.6, minimum=5)
    model, twin = network(), network()
    groups = [
        [{"params": m[0].parameters()}, {"params": m[2].parameters()}] for m in (model, twin)
    ]
    optimizer, other = GRDA(groups[0], plan=plan), GRDA(groups[1])
    train(model, optimizer, range(4))
    other.load_state_dict(optimizer.state_dict())
    plans = [group["plan"] for group in other.param_groups]
    assert plans[0] is plans[1]
    assert plans[0].state_dict() == plan.state_dict()
    assert plan.step == 4


def test_steps_that_are_skipped_do_not_advance_the_plan() -> None:
    w = nn.Parameter(torch.ones(3))
    plan = SparsityPlan(0.5, steps=10)
    optimizer = GRDA([w], lr=0.1, plan=plan)
    optimizer.step()  # no gradient
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for n, factor in enumerate([1.0, math.inf, 1.0, math.inf]):
        optimizer.zero_grad()
        scaler.scale(factor * w.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert plan.step == n // 2 + 1
    optimizer.param_groups[0]["lr"] = 0.0
    w.grad = torch.ones(3)
    optimizer.step()
    assert plan.step == 2


def test_no_tensor_is_emptied_and_the_total_is_still_exact() -> None:
    small, large = nn.Parameter(torch.linspace(0.1, 0.2, 10)), nn.Parameter(torch.ones(90))
    with torch.no_grad():
        large.copy_(torch.linspace(1, 2, 90))
    optimizer = GRDA([small, large], plan=SparsityPlan(0.5, steps=4, minimum=3))
    for _ in range(4):
        small.grad, large.grad = torch.zeros(10), torch.zeros(90)
        optimizer.step()
    assert (zeros(small), zeros(large)) == (7, 43)
    assert (small[-3:] != 0).all()


def test_an_emptied_tensor_is_named(caplog: pytest.LogCaptureFixture) -> None:
    small, large = nn.Parameter(torch.full((10,), 0.1)), nn.Parameter(torch.linspace(1, 2, 90))
    plan = SparsityPlan(0.5, steps=1, minimum=0)
    nothing = nn.Parameter(torch.empty(0, 3))
    named = [("head.bias", small), ("nothing", nothing), ("body.weight", large)]
    optimizer = GRDA(named, plan=plan)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for _, p in named:
                p.grad = torch.zeros_like(p)
            optimizer.step()
    assert len(caplog.messages) == 1
    assert "all weights of head.bias are zero" in caplog.text


@pytest.mark.parametrize(("sizes", "reachable"), [((3, 3, 4), False), ((3, 3, 40), True)])
def test_a_target_that_the_minimum_prevents_is_reported_once(
    sizes: tuple[int, ...], reachable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    weights = [nn.Parameter(torch.linspace(0.1, 1, size)) for size in sizes]
    optimizer = GRDA(weights, lr=0.1, plan=SparsityPlan(0.8, steps=4))
    for _ in range(6):
        for w in weights:
            w.grad = torch.ones_like(w)
        optimizer.step()
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros == (37 if reachable else 4)
    assert caplog.text.count("minimum=2 of each tensor leaves at most 4 zeros among 10") == (
        not reachable
    )


def test_a_tensor_that_only_the_minimum_keeps_is_named(caplog: pytest.LogCaptureFixture) -> None:
    small = nn.Parameter(torch.linspace(0.1, 0.2, 20).view(5, 4))
    vector = nn.Parameter(torch.zeros(9))
    large = nn.Parameter(torch.linspace(1, 2, 90).view(9, 10))
    pair = nn.Parameter(torch.full((1, 2), 0.1))  # all that it has is kept
    unused = nn.Parameter(torch.zeros(4, 5))  # has nothing to keep
    named = [
        ("first.weight", small), ("bias", vector), ("pair", pair), ("unused.weight", unused),
        ("last.weight", large),
    ]  # fmt: skip
    optimizer = GRDA(named, plan=SparsityPlan(0.9, steps=60, minimum=3))
    found = []
    with caplog.at_level(logging.WARNING):
        for step in range(1, 61):
            for _, p in named:
                p.grad = torch.zeros_like(p)
            optimizer.step()
            found += [step] * (len(caplog.messages) - len(found))
    assert len(found) == 1
    assert planned_sparsity(0.9, found[0], 60, 0.0, 0.75) >= 0.45
    assert "only the minimum of 3 weights is nonzero in first.weight; lower" in caplog.text
    assert "unused" not in caplog.text
    assert zeros(small) == 17


def test_parameters_without_gradient_are_thresholded_but_frozen_ones_are_left() -> None:
    weights = [nn.Parameter(torch.linspace(-1, 1, 40) + 0.001) for _ in range(4)]
    optimizer = GRDA(weights, lr=0.1, plan=SparsityPlan(0.5, steps=4))
    for step in range(4):
        for i, w in enumerate(weights):
            w.grad = None if i == 3 or (i == 1 and step > 1) else torch.zeros(40)
        if step == 1:
            frozen = zeros(weights[2])
            weights[2].requires_grad_(False)
            weights[2].grad = None
        elif step > 1:
            weights[2].grad = None
        optimizer.step()
    assert zeros(weights[0]) == zeros(weights[1]) == 20
    assert zeros(weights[2]) == frozen < 20
    assert zeros(weights[3]) == 0


def test_a_sample_gives_the_quantile_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SAMPLE", 4000)
    w = nn.Parameter(torch.randn(40_000, generator=torch.Generator().manual_seed(0)))
    optimizer = GRDA([w], plan=SparsityPlan(0.9, steps=40))
    for step in range(1, 41):
        w.grad = torch.zeros(40_000)
        optimizer.step()
        expected = planned_sparsity(0.9, step, 40, 0.0, 0.75)
        tolerance = 0.03 if step < 30 else 1e-9
        assert zeros(w) / 40_000 == pytest.approx(expected, abs=tolerance)


@settings(max_examples=60)
@given(
    v=arrays("float32", st.integers(1, 60), elements=st.floats(width=32, allow_nan=False)),
    data=st.data(),
    double=st.booleans(),
    joined=st.sampled_from([0, quantile.JOINED]),
)
def test_kth_magnitude_is_that_of_sorting(
    v: np.ndarray, data: st.DataObject, double: bool, joined: int
) -> None:
    t = torch.from_numpy(v).to(torch.float64 if double else torch.float32)
    k = data.draw(st.integers(1, len(v)))
    cut = data.draw(st.integers(0, len(v)))
    with mock.patch.object(quantile, "JOINED", joined):
        found = kth_magnitude([t[:cut], t[cut:]], k)
    assert float(found) == float(t.abs().sort().values[k - 1])


WAYS = ["host", "host, as on a GPU", "device", "device, as on a GPU"]


def chosen_thresholds(
    way: str, tensors: list[torch.Tensor], zeros: int, minimum: int, stride: int = 1
) -> tuple[float, list[float]]:
    """The thresholds by one of WAYS."""
    joins = mock.Mock(return_value="GPU" in way)
    with (
        mock.patch.object(tensor_thresholds, "_share_a_gpu", joins),
        mock.patch.object(tensor_thresholds, "SMALL", 5),
    ):
        if way.startswith("host"):
            found = tensor_thresholds.tensor_thresholds(tensors, zeros, minimum, stride)
            return found[0], found[1]
        common, own = tensor_thresholds.tensor_thresholds_on_device(
            tensors, torch.tensor(zeros), minimum
        )
        return float(common), [float(level) for level in own]


@settings(max_examples=80)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum),
    minimum=st.integers(0, 12),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@pytest.mark.parametrize("way", WAYS)
def test_exactly_the_largest_entries_are_kept_beside_those_of_the_minimum(
    way: str, sizes: list[int], minimum: int, data: st.DataObject, dtype: torch.dtype
) -> None:
    total = sum(sizes)
    values = data.draw(st.permutations(range(1, total + 1)))
    tensors = list(torch.tensor(values, dtype=dtype).split(sizes))
    kept = {int(v) for t in tensors for v in t.sort().values[len(t) - min(minimum, len(t)) :]}
    zeros = data.draw(st.integers(0, total - len(kept)))
    others = sorted(set(values) - kept)
    g, levels = chosen_thresholds(way, tensors, zeros, minimum)
    found = {int(v) for t, level in zip(tensors, levels) for v in t[t > level]}
    assert found == kept | set(others[zeros:])
    assert math.isfinite(g)
    # a tensor with enough entries above the common threshold has no threshold of its own
    for t, level in zip(tensors, levels):
        assert level == g or int((t > g).sum()) < min(minimum, len(t))


@settings(max_examples=80)
@given(
    tensors=st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=1, max_size=5).filter(any),
    minimum=st.integers(0, 4),
    data=st.data(),
)
def test_all_ways_agree_where_entries_are_equal_or_zero(
    tensors: list[list[int]], minimum: int, data: st.DataObject
) -> None:
    values = [torch.tensor(v, dtype=torch.float32) for v in tensors]
    zeros = data.draw(st.integers(0, sum(map(len, values))))
    results = []
    for way in WAYS:
        g, levels = chosen_thresholds(way, values, zeros, minimum)
        assert math.isfinite(g)
        kept = [(v > level).tolist() for v, level in zip(values, levels)]
        for v, above in zip(values, kept):
            assert sum(above) >= min(minimum, int((v > 0).sum()))
        results.append(kept)
    assert all(kept == results[0] for kept in results)


@pytest.mark.parametrize("way", WAYS)
def test_zeros_that_are_already_there_count(way: str) -> None:
    tensors = [torch.zeros(2), torch.arange(1.0, 11)]
    _, levels = chosen_thresholds(way, tensors, 10, 2)
    assert sum(int((t <= level).sum()) for t, level in zip(tensors, levels)) == 10


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_sample_keeps_the_minimum(way: str) -> None:
    small, large = torch.linspace(0.1, 0.2, 8), torch.linspace(1, 2, 3000)
    _, levels = chosen_thresholds(way, [small, large], 2000, 3, stride=7)
    assert int((small > levels[0]).sum()) == 3
    assert int((large <= levels[1]).sum()) == pytest.approx(1995, abs=30)


@settings(max_examples=100)
@given(
    v=arrays("float32", st.integers(1, 300), elements=st.floats(width=32)),
    data=st.data(),
    ordered=st.booleans(),
)
def test_the_kth_magnitude_of_a_vector_is_that_of_sorting(
    v: np.ndarray, data: st.DataObject, ordered: bool
) -> None:
    t = torch.from_numpy(np.sort(v) if ordered else v)
    k = data.draw(st.integers(1, len(v)))
    with mock.patch.object(quantile, "SAMPLE", 12):
        found = kth_magnitude_of_vector(t, k)
    assert np.array_equal(found.numpy(), np.sort(np.abs(t.numpy()))[k - 1], equal_nan=True)


def test_flat_does_not_copy_any_layout() -> None:
    t = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    for view in (t, t.permute(2, 0, 3, 1)):
        assert flat(view).data_ptr() == t.data_ptr()
        assert torch.equal(flat(view).sort().values, t.reshape(-1).sort().values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\), got 1.0"),
        ({"sparsity": math.nan}, "sparsity must lie"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": math.inf}, "steps must be at least 1 and finite, got inf"),
        ({"begin": 0.8}, "0 <= begin < end <= 1"),
        ({"end": 1.5}, "0 <= begin < end <= 1"),
        ({"structure": "blocks"}, "structure must be"),
        ({"minimum": -1}, "minimum must be at least 0"),
        ({"minimum": 2.5}, "minimum must be at least 0 and whole"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparsityPlan(**{"sparsity": 0.5, "steps": 10} | options)
    with pytest.raises(TypeError, match="plan must be a SparsityPlan"):
        GRDA([nn.Parameter(torch.ones(1))], plan=0.9)  # type: ignore[arg-type]


def test_equal_entries_are_kept_if_a_tensor_would_lose_too_many() -> None:
    equal = torch.nn.Parameter(torch.full((100,), 5.0))
    mixed = torch.nn.Parameter(torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, 3.0]))
    plan = SparsityPlan(0.8, steps=1, minimum=3)
    optimizer = GRDA([equal, mixed], lr=0.1, plan=plan)
    equal.grad, mixed.grad = torch.zeros(100), torch.zeros(6)
    optimizer.step()
    assert (equal > 0).all()
    assert [bool(w) for w in mixed] == [False, True, True, True, True, True]
    assert math.isfinite(plan.threshold)


@pytest.mark.parametrize("name", ["sparsity", "steps", "begin", "end", "minimum"])
@pytest.mark.parametrize("value", ["0.5", None, [1]], ids=str)
def test_options_that_are_no_numbers_are_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number, got "):
        SparsityPlan(**{"sparsity": 0.9, "steps": 10, name: value})


def test_the_state_has_plain_numbers(tmp_path: Path) -> None:
    plan = SparsityPlan(
        np.float64(0.5), torch.tensor(30), begin=np.float32(0.25), end=np.float64(1)
    )
    w = nn.Parameter(torch.linspace(-1, 1, 20))
    optimizer = GRDA([w], plan=plan)
    w.grad = torch.ones(20)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["param_groups"][0]["plan"]
    assert {k: saved[k] for k in ("sparsity", "steps", "begin", "end", "step")} == {
        "sparsity": 0.5,
        "steps": 30,
        "begin": 0.25,
        "end": 1.0,
        "step": 1,
    }


@pytest.mark.parametrize("capturable", [False, True])
def test_frozen_parameters_that_still_have_gradients(capturable: bool) -> None:
    model = network()
    plan = SparsityPlan(0.9, steps=40)
    optimizer = MAKERS["sgd"](model.parameters(), plan, capturable=capturable)
    train(model, optimizer, range(10))
    counted = zeros(*model.parameters())
    model.requires_grad_(False)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["momentum"] = 0.0
    optimizer.step()
    assert zeros(*model.parameters()) == counted


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("capturable", [False, True])
def test_training_continues_from_good_weights_after_a_divergence(
    value: float, capturable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    plan = SparsityPlan(0.9, steps=40)
    optimizer = MAKERS["sgd"](model.parameters(), plan, capturable=capturable)
    train(model, optimizer, range(32))
    good = copy.deepcopy(model.state_dict())
    g = float(plan.threshold)
    for p in model.parameters():
        p.grad = torch.full_like(p, value)
    optimizer.step()
    assert float(plan.threshold) == g > 0
    assert capturable or "the weights are not finite" in caplog.text
    model.load_state_dict(good)
    optimizer.reset_from_weights()
    train(model, optimizer, range(33, 40))
    total = sum(p.numel() for p in model.parameters())
    assert zeros(*model.parameters()) == round(0.9 * total)


def test_plans_that_were_separate_stay_separate_when_loaded() -> None:
    model, twin = network(), network()
    plans = SparsityPlan(0.9, steps=20), SparsityPlan(0.5, steps=20)
    one, two = ([{"params": [m[0].weight]}, {"params": [m[2].weight]}] for m in (model, twin))
    for group, plan in zip(one, plans):
        group["plan"] = plan
    optimizer, other = GRDA(one), GRDA(two, plan=SparsityPlan(0.7, steps=20))
    train(model, optimizer, range(5))
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(twin, other, range(5, 20))
    assert zeros(twin[0].weight) == round(0.9 * twin[0].weight.numel())
    assert zeros(twin[2].weight) == round(0.5 * twin[2].weight.numel())


@pytest.mark.parametrize("trip", [lambda x: x, copy.deepcopy], ids=["same", "copy"])
def test_every_optimizer_counts_its_own_steps(trip: Callable) -> None:
    plan = SparsityPlan(0.5, steps=20)
    for _ in range(2):  # the second time, the plan belongs to another optimizer
        model = network()
        one = GRDA([{"params": [model[0].weight]}, {"params": [model[2].weight]}], plan=plan)
        other = AdamGRDA([model[3].weight, model[0].bias], plan=plan)
        shares = []
        for n in range(10):
            train(model, one, range(n, n + 1))
            other.step()
            shares.append(zeros(model[0].weight, model[2].weight) / 1680)
        assert shares[0] == round(plan.sparsity_at(1) * 1680) / 1680 < 0.1
        model, one, other = trip((model, one, other))
        one.add_param_group({"params": [model[2].bias]})
        assert len({id(group["plan"]) for group in one.param_groups}) == 1
        for n in range(10, 20):
            train(model, one, range(n, n + 1))
            other.step()
        assert zeros(model[0].weight, model[2].weight, model[2].bias) == (1680 + 30) / 2
        assert zeros(model[3].weight, model[0].bias) == 35
        assert one.param_groups[0]["plan"].step == other.param_groups[0]["plan"].step == 20
