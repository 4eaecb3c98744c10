"""The residual network of the comparison, its multiply-adds, and its narrow versions."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

WIDTHS = (8, 16, 32)
EXAMPLE = (1, 1, 28, 28)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut: a 1x1 convolution if the stride is not 1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def residual_network(widths: Sequence[int] = WIDTHS) -> nn.Module:
    """A convolution of stride 2, three residual blocks, and a linear layer for ten classes."""
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(1, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(),
        Residual(first, first, 1), Residual(first, second, 2), Residual(second, third, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, 10),
    )  # fmt: skip


def multiply_adds(model: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers for one image."""
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(EXAMPLE))
    model.train(training)
    return counter.get_total_flops() // 2


def narrow_widths(share: float) -> tuple[int, ...]:
    """Scaled widths, rounded down or up, with the most multiply-adds up to a share."""
    budget = share * multiply_adds(residual_network())
    costs: dict[tuple[int, ...], int] = {}
    for scale in (round(64 * share**0.5 + step) / 64 for step in range(-4, 5)):
        for ups in itertools.product((0, 1), repeat=len(WIDTHS)):
            widths = tuple(int(scale * w) + up for w, up in zip(WIDTHS, ups, strict=True))
            if widths not in costs:
                costs[widths] = multiply_adds(residual_network(widths))
    return max((w for w in costs if costs[w] <= budget), key=lambda w: costs[w])
