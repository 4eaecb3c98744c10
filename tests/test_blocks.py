"""Structured sparsity: whole channels and two of every four weights."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dirprune import GRDA, AdamGRDA, SparsityPlan
from dirprune.blocks import Blocks, block_factors, two_four_levels


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip


def channel_blocks(net: nn.Sequential) -> list[list[tuple[Tensor, int, int]]]:
    first, norm, second = net[0], net[1], net[3]
    blocks = [[(p, 0, i) for p in (*first.parameters(), *norm.parameters())] for i in range(12)]
    return blocks + [[(p, 0, i) for p in second.parameters()] for i in range(8)]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for n in steps:
        x = torch.randn(6, 4, 6, 6, generator=torch.Generator().manual_seed(n))
        optimizer.zero_grad()
        (net(x) - x[:, :, 0, 0]).square().mean().backward()
        optimizer.step()


def channel_groups(net: nn.Sequential) -> list[dict]:
    planned = [p for i in (0, 1, 3) for p in net[i].parameters()]
    return [{"params": planned}, {"params": net[5].parameters(), "c": 0.0}]


@pytest.mark.parametrize("power", [1.0, 2.0, math.inf])
def test_complete_channels_become_zero(power: float) -> None:
    net = network()
    blocks = channel_blocks(net)
    plan = SparsityPlan(0.6, steps=12, structure="channels", blocks=blocks)
    train(net, GRDA(channel_groups(net), lr=0.05, plan=plan, power=power), range(12))
    zero = [[bool((p.select(d, i) == 0).all()) for p, d, i in block] for block in blocks]
    anything = [[bool((p.select(d, i) == 0).any()) for p, d, i in block] for block in blocks]
    assert zero == anything
    assert all(len(set(block)) == 1 for block in zero)
    sizes = torch.tensor([sum(p.select(d, i).numel() for p, d, i in b) for b in blocks])
    dead = torch.tensor([block[0] for block in zero])
    share = float(sizes[dead].sum() / sizes.sum())
    assert 0.6 - float(sizes.max() / sizes.sum()) < share <= 0.6
    assert not any(p.detach()[p == 0].signbit().any() for p in net.parameters())
    assert not (net[5].weight == 0).any()


def test_every_tensor_keeps_a_channel() -> None:
    net = network()
    blocks = channel_blocks(net)
    with torch.no_grad():
        net[3].weight.mul_(1e-3)
        net[3].bias.mul_(1e-3)
    plan = SparsityPlan(0.9, steps=1, structure="channels", blocks=blocks)
    train(net, GRDA(channel_groups(net), lr=1e-9, plan=plan), range(1))
    assert (net[3].weight != 0).any()
    assert (net[0].weight != 0).any()


def test_a_block_is_thresholded_by_its_root_mean_square() -> None:
    w = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.1], [6.0, 8.0]]))
    blocks = [[(w, 0, i)] for i in range(3)]
    optimizer = GRDA([w], lr=0.1, plan=SparsityPlan(0.4, 1, structure="channels", blocks=blocks))
    w.grad = torch.zeros(3, 2)
    optimizer.step()
    g = math.sqrt((0.09 + 0.01) / 2)
    assert optimizer.thresholds() == pytest.approx([g], rel=1e-6)
    rms = math.sqrt(12.5)
    expected = torch.tensor([3.0, 4.0]) * math.sqrt(1 - (g / rms) ** 2)
    torch.testing.assert_close(w.detach()[0], expected)
    assert (w.detach()[1] == 0).all()


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("maker", [GRDA, AdamGRDA])
def test_two_of_every_four(power: float, maker: type) -> None:
    net = network()
    planned = [net[0].weight, net[3].weight, net[5].weight]
    rest = [p for p in net.parameters() if not any(p is q for q in planned)]
    groups = [{"params": planned}, {"params": rest, "c": 0.0}]
    plan = SparsityPlan(0.5, steps=8, structure="2:4")
    optimizer = maker(groups, lr=0.01, plan=plan, power=power)
    train(net, optimizer, range(4))
    assert any(((p != 0).movedim(1, -1).reshape(-1, 4).sum(1) > 2).any() for p in planned)
    train(net, optimizer, range(4, 9))
    for p in planned:
        fours = p.detach().movedim(1, -1).reshape(-1, 4)
        assert ((fours == 0).sum(1) == 2).all()


@pytest.mark.parametrize("structure", ["channels", "2:4"])
def test_outside_changes_are_adopted_and_runs_resume(structure: str) -> None:
    def build(net: nn.Sequential) -> torch.optim.Optimizer:
        if structure == "2:4":
            plan = SparsityPlan(0.5, steps=9, structure="2:4")
            return GRDA([net[0].weight, net[3].weight], lr=0.05, momentum=0.9, plan=plan)
        blocks = channel_blocks(net)
        plan = SparsityPlan(0.5, steps=9, structure="channels", blocks=blocks)
        return GRDA(channel_groups(net), lr=0.05, momentum=0.9, plan=plan)

    one, two = network(), network()
    a, b = build(one), build(two)
    train(one, a, range(5))
    two.load_state_dict(one.state_dict())
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for net, optimizer in ((one, a), (two, b)):
        train(net, optimizer, range(5, 7))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))

    before = {id(p): a.state[p]["v"].clone() for p in a.state if "v" in a.state[p]}
    new = one[0].weight.detach() * 1.5
    with torch.no_grad():
        one[0].weight.copy_(new)
    for group in a.param_groups:
        group["lr"] = 0.0
    train(one, a, range(7, 8))
    torch.testing.assert_close(one[0].weight.detach(), new, rtol=0.2, atol=0.1)
    assert torch.equal(a.state[one[3].weight]["v"], before[id(one[3].weight)])


@settings(max_examples=30)
@given(rows=st.integers(1, 5), fours=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_threshold_of_four_weights_is_the_second_smallest(
    rows: int, fours: int, seed: int
) -> None:
    v = torch.randn(rows, 4 * fours, 3, generator=torch.Generator().manual_seed(seed))
    levels = two_four_levels(v)
    for i in range(rows):
        for j in range(fours):
            for k in range(3):
                four = sorted(abs(float(x)) for x in v[i, 4 * j : 4 * j + 4, k])
                assert levels[i, 4 * j : 4 * j + 4, k].tolist() == [four[1]] * 4


def test_factors_lie_between_zero_and_one() -> None:
    norms = torch.tensor([0.0, 0.5, 1.0, 2.0, 1e6], dtype=torch.float64)
    for power in (1.0, 2.0, 3.0, math.inf):
        factors = block_factors(norms, torch.full_like(norms, 0.5), power)
        assert factors[:2].tolist() == [0.0, 0.0]
        assert (factors.diff() >= 0).all()
        assert factors[-1] == pytest.approx(1.0, abs=1e-6)
    assert block_factors(norms, torch.zeros_like(norms), 2.0).tolist() == [1.0] * 5


def test_bad_structures_are_refused() -> None:
    w, odd = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(4, 6))
    with pytest.raises(ValueError, match="divisible by four"):
        GRDA([odd], plan=SparsityPlan(0.5, 10, structure="2:4"))
    with pytest.raises(ValueError, match=r"needs sparsity=0.5"):
        SparsityPlan(0.9, 10, structure="2:4")
    with pytest.raises(ValueError, match="needs blocks, and other structures"):
        SparsityPlan(0.9, 10, structure="channels")
    with pytest.raises(ValueError, match="needs blocks, and other structures"):
        SparsityPlan(0.9, 10, blocks=[[(w, 0, 0)]])
    with pytest.raises(ValueError, match="overlaps"):
        Blocks([[(w, 0, 1)], [(w, 0, 1)]])
    with pytest.raises(ValueError, match="overlaps"):
        Blocks([[(w, 0, 1)], [(w, 1, 1)]])
    with pytest.raises(ValueError, match="does not exist"):
        Blocks([[(w, 0, 4)]])
    with pytest.raises(ValueError, match="no block contains"):
        GRDA([odd], plan=SparsityPlan(0.5, 9, structure="channels", blocks=[[(w, 0, 0)]]))


@pytest.mark.parametrize("wrong", ["elements", "no plan", "with costs"])
def test_the_state_of_a_plan_for_channels_needs_the_same_plan(wrong: str) -> None:
    def optimizer(kind: str, steps: int = 12) -> tuple[nn.Module, GRDA]:
        net = network()
        blocks = channel_blocks(net)
        costs = [(1.0, [i], []) for i in range(len(blocks))] if kind == "with costs" else None
        options = {"structure": "channels", "blocks": blocks, "costs": costs}
        if kind == "no plan":
            return net, GRDA(channel_groups(net), lr=0.05, c=0.01)
        plan = SparsityPlan(0.5, steps, **({} if kind == "elements" else options))
        return net, GRDA(channel_groups(net), lr=0.05, plan=plan)

    net, saved = optimizer("channels")
    train(net, saved, range(3))
    other_net, other = optimizer(wrong, steps=20)
    train(other_net, other, range(1))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"the saved plan .*channels.*, then load the state"):
        other.load_state_dict(saved.state_dict())
    after = other.state_dict()
    assert after["param_groups"] == before["param_groups"]
    torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)


def test_groups_that_share_a_plan_for_channels_share_it_after_loading() -> None:
    def optimizer(second: SparsityPlan | None, shared: bool) -> tuple[nn.Module, GRDA]:
        net = network()
        plan = SparsityPlan(0.5, 12, structure="channels", blocks=channel_blocks(net))
        groups = [
            {"params": list(net[:2].parameters())},
            {"params": net[3].parameters(), "plan": plan if shared else second},
            {"params": net[5].parameters(), "plan": None, "c": 0.0},
        ]
        return net, GRDA(groups, lr=0.05, plan=plan)

    net, saved = optimizer(None, shared=True)
    train(net, saved, range(3))
    for second in (None, SparsityPlan(0.5, 12)):
        _, other = optimizer(second, shared=False)
        other.load_state_dict(saved.state_dict())
        first, shared, dense = (group["plan"] for group in other.param_groups)
        assert first is shared
        assert (first.step, first.structure, dense) == (3, "channels", None)


def test_two_saved_plans_for_channels_are_refused_by_one_before_anything_changes() -> None:
    net = network()
    blocks = channel_blocks(net)
    plans = [
        SparsityPlan(0.5, 12, structure="channels", blocks=part)
        for part in (blocks[:12], blocks[12:])
    ]
    parts = [list(net[:2].parameters()), list(net[3].parameters())]
    rest = {"params": net[5].parameters(), "plan": None, "c": 0.0}
    groups = [{"params": part, "plan": plan} for part, plan in zip(parts, plans, strict=True)]
    saved = GRDA([*groups, rest], lr=0.05)
    train(net, saved, range(3))

    other_net = network()
    plan = SparsityPlan(0.5, 12, structure="channels", blocks=channel_blocks(other_net))
    parts = [list(other_net[:2].parameters()), list(other_net[3].parameters())]
    rest = {"params": other_net[5].parameters(), "plan": None, "c": 0.0}
    other = GRDA([*({"params": part} for part in parts), rest], lr=0.05, plan=plan)
    train(other_net, other, range(1))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="prunes channels"):
        other.load_state_dict(saved.state_dict())
    assert other.state_dict()["param_groups"] == before["param_groups"]
    torch.testing.assert_close(other.state_dict()["state"], before["state"], rtol=0, atol=0)
    train(other_net, other, range(1, 2))
