"""VGG16 for small images: the paper's version without BatchNorm, and the usual one with it.

References:
    Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan and Zisserman,
    2015), https://arxiv.org/abs/1409.1556, configuration D.
"""

import math

from torch import nn

from dirprune.models.width import scaled

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(num_classes: int, channels: int, size: tuple[int, int], width: float) -> nn.Module:
    """Build the paper's VGG16: no BatchNorm, two dropouts, 15,245,130 parameters at 10 classes.

    Convolutions are drawn from a normal distribution with standard deviation
    ``sqrt(2 / (9 * out_channels))`` and have zero biases, as in the paper's code.
    """
    hidden = scaled(512, width)
    classifier = [
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    ]
    return nn.Sequential(*_features(channels, width, batchnorm=False), *classifier)


def vgg16_bn(num_classes: int, channels: int, size: tuple[int, int], width: float) -> nn.Module:
    """Build VGG16 with BatchNorm after every convolution and one linear layer at the end.

    This form is usual on CIFAR: BatchNorm replaces the dropouts and the hidden linear layers. The
    network has 14,728,266 parameters at 10 classes. Convolutions are initialised as in `vgg16`.
    """
    features = _features(channels, width, batchnorm=True)
    return nn.Sequential(*features, nn.Linear(scaled(512, width), num_classes))


def _features(channels: int, width: float, *, batchnorm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in _STAGES:
        for hidden in (scaled(n, width) for n in stage):
            convolution = nn.Conv2d(channels, hidden, 3, padding=1)
            nn.init.normal_(convolution.weight, std=math.sqrt(2 / (9 * hidden)))
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # it is not None
            normalisation = [nn.BatchNorm2d(hidden)] if batchnorm else []
            layers += [convolution, *normalisation, nn.ReLU()]
            channels = hidden
        layers.append(nn.MaxPool2d(2))
    # Images of 32x32 pixels have one pixel left here; larger images are averaged.
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
