"""A small network of every family that must work, with statistics and zeros that show errors."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models
from torchvision.models import convnext, efficientnet, mobilenetv3, regnet, resnet, vgg

from dirprune.deploy import capture
from dirprune.deploy.graph.graph import Graph
from dirprune.models import build


def small_vgg() -> nn.Module:
    layers = vgg.make_layers([8, "M", 16, 16, "M"], batch_norm=True)
    model = models.VGG(layers, num_classes=10)
    model.classifier = nn.Sequential(
        nn.Linear(16 * 49, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10)
    )
    return model


def small_mobilenet_v3() -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, width_mult=1.0)
    blocks = [
        block(16, 3, 16, 16, True, "RE", 2, 1),
        block(16, 5, 24, 24, True, "HS", 2, 1),
        block(24, 3, 24, 24, False, "HS", 1, 2),
    ]
    return models.MobileNetV3(blocks, 32, num_classes=10)


def small_efficientnet() -> nn.Module:
    blocks = [
        efficientnet.FusedMBConvConfig(2, 3, 1, 16, 16, 2),
        efficientnet.MBConvConfig(4, 5, 2, 16, 24, 2, 1.0, 1.0),
    ]
    return models.EfficientNet(blocks, 0.2, stochastic_depth_prob=0.5, num_classes=10)


def small_regnet() -> nn.Module:
    parameters = regnet.BlockParams([1, 2], [16, 32], [8, 8], [1.0, 1.0], [2, 2], 0.25)
    return models.RegNet(parameters, num_classes=10)


def small_convnext() -> nn.Module:
    blocks = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(blocks, 0.5, layer_scale=0.5, num_classes=10)


Bottleneck, BasicBlock = resnet.Bottleneck, resnet.BasicBlock
own = partial(build, num_classes=10, channels=3, size=(32, 32))
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), 64),
    "wide_resnet": (lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], 10, width_per_group=128), 32),
    "resnext": (lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], 10, False, 32, 4), 33),
    "vgg": (small_vgg, 40),
    "mobilenet_v2": (
        lambda: models.MobileNetV2(10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]),
        64,
    ),
    "mobilenet_v3": (small_mobilenet_v3, 64),
    "efficientnet": (small_efficientnet, 64),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16, num_classes=10), 64),
    "squeezenet": (lambda: models.squeezenet1_1(num_classes=10), 64),
    "regnet": (small_regnet, 64),
    "googlenet": (
        lambda: models.googlenet(num_classes=10, init_weights=False, transform_input=True),
        64,
    ),
    "inception": (lambda: models.inception_v3(num_classes=10, init_weights=False), 80),
    "mnasnet": (lambda: models.MNASNet(0.35, num_classes=10), 64),
    "shufflenet": (lambda: models.ShuffleNetV2([1, 2, 1], [24, 48, 96, 192, 64], 10), 64),
    "convnext": (small_convnext, 64),
    "our mlp": (partial(own, "mlp", width=0.25), 32),
    "our convnet": (partial(own, "convnet"), 32),
    "our resnet20": (partial(own, "resnet20", width=0.5), 32),
    "our vgg16": (partial(own, "vgg16", width=0.125), 32),
    "our vgg16_bn": (partial(own, "vgg16_bn", width=0.125), 32),
    "our wrn28x10": (partial(own, "wrn28x10", width=0.1), 32),
}
"""How each is made, and the side of the images that it is tried on."""
NAMES = [
    pytest.param(name, marks=pytest.mark.slow)
    if name in ("googlenet", "inception", "resnext", "shufflenet", "wide_resnet")
    else name
    for name in NETWORKS
]
"""Parameters of a test; the networks that take longest are slow tests."""


def sparsify(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    """Zero the smallest weights of every layer, and give BatchNorm statistics of its own."""
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                # Keep the variance, so that signals neither die nor explode.
                mask = torch.rand_like(p) >= sparsity
                p.mul_(mask).mul_((1 - sparsity) ** -0.5)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    return model


def inputs(name: str, batch: int) -> Tensor:
    side = NETWORKS[name][1]
    return torch.randn(batch, 3, side, side)


@cache
def captured(name: str) -> tuple[nn.Module, Graph]:
    """A network in evaluation mode and its graph, made once."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sparsify(NETWORKS[name][0]()).eval()
        return model, capture(model, inputs(name, 2))


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference in units of the first one's largest entry."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / a.abs().max())
