"""A perceptron with one hidden layer."""

from torch import nn

from dirprune.models.width import scaled


def mlp(num_classes: int, channels: int, size: tuple[int, int], width: float) -> nn.Module:
    """Build a perceptron with one hidden layer of 512 units, as in the authors' MNIST example."""
    hidden = scaled(512, width)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size[0] * size[1], hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
