"""Blocks of channels: zero them, and shrink removes what they made."""

import pytest
import torch
from torch import Tensor, nn

from dirprune.deploy import channel_blocks, shrink


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
