"""GRDA's state: saving, loading, copying, and adopting changed weights."""

import copy
import io
import math
import pickle
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dirprune import GRDA, soft_threshold


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


def test_state_of_other_groups_is_refused_by_their_sizes() -> None:
    a, b = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))
    saved = GRDA([a, b])
    a.grad = torch.ones_like(a)
    saved.step()
    for groups in ([{"params": [b]}, {"params": [a]}], [{"params": [b]}]):
        sizes = re.escape(str([1] * len(groups)))
        with pytest.raises(ValueError, match=rf"have \[2\] parameters, the optimizer's {sizes}: "):
            GRDA(groups).load_state_dict(saved.state_dict())


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


def test_the_state_of_sgd_is_ignored() -> None:
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


def test_loaded_state_shares_no_memory() -> None:
    _, optimizer, step = toy()
    step(0)
    _, other, _ = toy()
    other.load_state_dict(optimizer.state_dict())
    v = optimizer.param_groups[0]["params"][0]
    w = other.param_groups[0]["params"][0]
    assert optimizer.state[v]["v"].data_ptr() != other.state[w]["v"].data_ptr()


@pytest.mark.parametrize("trip", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_continue_identically(trip: Callable) -> None:
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


def test_one_state_tensor_a_parameter_and_two_with_momentum() -> None:
    for momentum, tensors in [(0.0, 1), (0.9, 2)]:
        w = nn.Parameter(torch.ones(3))
        optimizer = GRDA([w], momentum=momentum)
        w.grad = torch.ones(3)
        optimizer.step()
        assert sum(isinstance(x, Tensor) for x in optimizer.state[w].values()) == tensors
