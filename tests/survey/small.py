"""A small network with BatchNorm, for --model survey.small:network."""

from torch import nn


def network(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, num_classes),
    )
