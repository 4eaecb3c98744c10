"""WRN28x10, the wide residual network of the paper's experiments on CIFAR.

References:
    Wide Residual Networks (Zagoruyko and Komodakis, 2016), https://arxiv.org/abs/1605.07146.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.models.width import scaled


class WideBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions, added to the raw input.

    As in the code that the paper used, all convolutions have biases, the second one has the
    stride, and where the shape changes the shortcut is a 1x1 convolution.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: Stride of the second convolution and of the shortcut.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / stride, W / stride)."""
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.add(out, self.shortcut(x))


def wrn28x10(num_classes: int, channels: int, size: tuple[int, int], width: float) -> nn.Module:
    """Build the paper's WRN28x10: 36,489,290 parameters at 10 classes, 36,546,980 at 100.

    At width 1 it has 16, 160, 320 and 640 channels. It has PyTorch's default initialisation, as in
    the paper's code.
    """
    before = scaled(16, width)
    layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, padding=1)]
    for hidden, stride in ((160, 1), (320, 2), (640, 2)):
        after = scaled(hidden, width)
        for i in range(4):
            layers.append(WideBlock(before, after, stride if i == 0 else 1))
            before = after
    return nn.Sequential(
        *layers,
        nn.BatchNorm2d(before, momentum=0.9),  # only the last one, as in the paper's code
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, num_classes),
    )
