"""ResNet-20 for CIFAR.

References:
    Deep Residual Learning for Image Recognition (He et al., 2016), Section 4.2,
    https://arxiv.org/abs/1512.03385.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.models.width import scaled


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the input.

    Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm (option B of the
    paper), so that every channel of the sum comes from a layer that can be pruned.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet20(num_classes: int, channels: int, size: tuple[int, int], width: float) -> nn.Module:
    """Build CIFAR's ResNet-20: three stages of three blocks, 272,474 parameters at 10 classes.

    At width 1 it has 16, 32 and 64 channels. Convolutions have He's normal initialisation with
    fan-out.
    """
    before = scaled(16, width)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, before, 3, padding=1, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU(),
    ]
    for hidden, stride in ((16, 1), (32, 2), (64, 2)):
        after = scaled(hidden, width)
        for i in range(3):
            layers.append(ResidualBlock(before, after, stride if i == 0 else 1))
            before = after
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
