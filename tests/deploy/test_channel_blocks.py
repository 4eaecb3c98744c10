"""Blocks of channels: zero them, and shrink removes what they made."""

import pytest
import torch
from torch import Tensor, nn

from dirprune import GRDA, SparsityPlan
from dirprune.costs import Costs
from dirprune.deploy import channel_blocks, channel_costs, shrink


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.inner = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.out = nn.Conv2d(6, 4, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.scale * self.out(self.depthwise(self.inner(x)))
        return self.head(x.mean((2, 3)))


def test_partners_are_in_one_block() -> None:
    blocks = channel_blocks(Residual(), torch.ones(2, 3, 8, 8))
    assert len(blocks) == 4 + 6
    stream = [f"stem.0.{k}" for k in ("weight", "bias")]
    stream += ["stem.1.weight", "stem.1.bias", "out.weight", "scale"]
    inner = ["inner.0.weight", "inner.0.bias", "inner.1.weight", "inner.1.bias",
             "depthwise.weight", "depthwise.bias"]  # fmt: skip
    expected = [{(name, 0, i) for name in stream} for i in range(4)]
    expected += [{(name, 0, i) for name in inner} for i in range(6)]
    assert [set(block) for block in blocks] == expected


def test_zeroed_blocks_are_what_shrink_removes() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    blocks = channel_blocks(model, x)
    with torch.no_grad():
        for block in (blocks[1], blocks[5], blocks[7]):
            for name, dim, index in block:
                model.get_parameter(name).select(dim, index).zero_()
    small = shrink(model, x)
    assert small.get_parameter("stem.0.weight").shape == (3, 3, 3, 3)
    assert small.get_parameter("depthwise.weight").shape == (4, 1, 3, 3)
    assert small.get_parameter("out.weight").shape == (3, 4, 1, 1)
    torch.testing.assert_close(small(x), model(x))
    assert len(channel_blocks(small, x)) == 3 + 4


def test_groups_go_as_a_whole_and_outputs_stay() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 1, groups=2), nn.Conv2d(6, 2, 1))
    blocks = channel_blocks(model, torch.ones(1, 4, 5, 5))
    rows = [sorted({index for name, _, index in b if name == "1.weight"}) for b in blocks]
    assert rows == [[0, 1, 2], [3, 4, 5]]
    assert not any(name.startswith("2.") for block in blocks for name, _, _ in block)


@pytest.mark.parametrize("op", ["amax", "amin", "sum", "mean", "prod"])
def test_a_zeroed_channel_goes_through_a_reduction(op: str) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).relu()
            x = x.flatten(2).prod(2) if op == "prod" else getattr(x, op)((2, 3))
            return self.head(x)

    torch.manual_seed(0)
    model, x = Pooled().eval(), torch.randn(2, 3, 5, 4)
    with torch.no_grad():
        model.conv.weight[2:4] = 0
        model.conv.bias[2] = 0
        model.conv.bias[3] = 1.5  # constant, but not zero: its sum goes to the bias of the head
        expected = model(x)
    small = shrink(model, x)
    assert small.state_dict()["head.weight"].shape == (2, 4)
    torch.testing.assert_close(small(x), expected, atol=1e-5, rtol=1e-5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.mlp(x)).mean(1))


def padded(*between: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), *between, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 1), *between, nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 36, 3),
    )  # fmt: skip


class PlusOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.out, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.out(self.stem(x) * self.gate(x).sigmoid()).tanh())


NETWORKS = {
    "sigmoid": (lambda: padded(nn.Sigmoid()), (1, 3, 8, 8)),
    "softplus": (lambda: padded(nn.BatchNorm2d(8), nn.Softplus()), (1, 3, 8, 8)),
    "statistics": (lambda: padded(nn.BatchNorm2d(8, affine=False), nn.ReLU()), (2, 3, 8, 8)),
    "plus one": (lambda: padded(PlusOne()), (1, 3, 8, 8)),
    "padded mean": (lambda: padded(nn.AvgPool2d(3, 1, 1), nn.Hardsigmoid()), (1, 3, 8, 8)),
    "mean of sigmoid": (lambda: padded(nn.Sigmoid(), nn.AvgPool2d(3, 1, 1)), (1, 3, 8, 8)),
    "gated": (Gated, (1, 3, 6, 6)),
    "transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1),
        ),
        (1, 3, 6, 6),
    ),
    "sequence": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3), nn.Flatten(), nn.Linear(36, 12),
            nn.ReLU(), nn.Linear(12, 4),
        ),
        (1, 3, 10),
    ),
    "residual": (Residual, (2, 3, 8, 8)),
    "attention": (Attention, (2, 6, 5)),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 1, groups=4), nn.ReLU(),
            nn.Conv2d(12, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 9, 7),
        ),
        (1, 4, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(4))
def test_the_cost_that_remains_is_that_of_the_network_from_shrink(name: str, seed: int) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model, x = make(), torch.randn(shape)
    blocks = channel_blocks(model, x)
    costs = channel_costs(model, x)
    model(x)  # in training mode: statistics that were 0 and 1 now have other values
    model.eval()
    kept = torch.rand(len(blocks)) < 0.6
    for p in {block[0][0] for block in blocks}:  # a layer keeps something
        kept[next(i for i, block in enumerate(blocks) if block[0][0] == p)] = True
    with torch.no_grad():
        for i in (~kept).nonzero().flatten().tolist():
            for parameter, dim, index in blocks[i]:
                model.get_parameter(parameter).select(dim, index).zero_()
    before, after = shrink(model, x).report.macs
    assert after < before
    remaining = Costs(costs, len(blocks)).remaining(kept)
    assert remaining == pytest.approx(after / before, rel=1e-12)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_plan_with_costs_reaches_a_share_of_the_multiply_adds(share: float) -> None:
    torch.manual_seed(0)
    widths = (24, 40, 16)
    model = nn.Sequential(
        nn.Conv2d(3, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], 3, stride=2), nn.BatchNorm2d(widths[1]), nn.ReLU(),
        nn.Conv2d(widths[1], widths[2], 3), nn.ReLU(), nn.Flatten(), nn.Linear(widths[2], 4),
    )  # fmt: skip
    x = torch.randn(16, 3, 9, 9)
    blocks = [
        [(model.get_parameter(name), dim, index) for name, dim, index in block]
        for block in channel_blocks(model, x[:1])
    ]
    costs = channel_costs(model, x[:1])
    plan = SparsityPlan(share, steps=20, structure="channels", blocks=blocks, costs=costs)
    planned = {id(p): p for block in blocks for p, _, _ in block}
    rest = [p for p in model.parameters() if id(p) not in planned]
    groups = [{"params": list(planned.values())}, {"params": rest, "plan": None, "c": 0.0}]
    optimizer = GRDA(groups, lr=0.05, plan=plan)
    for _ in range(20):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    before, after = shrink(model, x[:1]).report.macs
    largest = max(
        sum(cost / len(side) for cost, *sides in costs for side in sides if block in side)
        for block in range(len(blocks))
    )
    assert share <= 1 - after / before < share + largest / before
