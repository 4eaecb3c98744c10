"""A small convolutional network without normalisation."""

from torch import nn

from dirprune.models.width import scaled


def convnet(num_classes: int, channels: int, size: tuple[int, int], width: float) -> nn.Module:
    """Build a network of two 3x3 convolutions with max-pooling and one hidden layer.

    At width 1 it has 32 and 64 channels and 120 units: 143,026 parameters on scikit-learn's
    digits. Images below 16 pixels are pooled only after the second convolution, larger ones after
    both.
    """
    first, second, hidden = (scaled(n, width) for n in (32, 64, 120))
    pool = 2 if min(size) >= 16 else 1
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(pool),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (size[0] // pool // 2) * (size[1] // pool // 2), hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
