"""Networks: published parameter counts, shapes, and errors."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from dirprune.models import build
from dirprune.models.factory import OWN, check_trainable

DIGITS, FASHION, CIFAR = (1, (8, 8)), (1, (28, 28)), (3, (32, 32))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "num_classes", "data", "parameters"),
    [
        ("vgg16", 10, CIFAR, 15_245_130),  # the paper
        ("wrn28x10", 10, CIFAR, 36_489_290),  # the paper
        ("wrn28x10", 100, CIFAR, 36_546_980),  # the paper
        ("resnet50", 1000, (3, (64, 64)), 25_557_032),  # the paper
        ("vgg16_bn", 10, CIFAR, 14_728_266),  # the usual VGG16 on CIFAR
        ("convnet", 10, DIGITS, 143_026),
        ("mlp", 10, FASHION, 784 * 512 + 512 + 512 * 10 + 10),
    ],
)
def test_parameter_counts(
    name: str, num_classes: int, data: tuple[int, tuple[int, int]], parameters: int
) -> None:
    model = build(name, num_classes=num_classes, channels=data[0], size=data[1])
    assert count(model) == parameters


def test_resnet20_is_he_et_als_with_projections() -> None:
    convolutions = [3 * 16, *[16 * 16] * 6, 16 * 32, *[32 * 32] * 5, 32 * 64, *[64 * 64] * 5]
    batchnorms = 2 * (7 * 16 + 7 * 32 + 7 * 64)  # two numbers per channel; shortcuts included
    projections = 16 * 32 + 32 * 64
    model = build("resnet20", num_classes=10, channels=3, size=(32, 32))
    assert count(model) == 9 * sum(convolutions) + batchnorms + projections + 64 * 10 + 10
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 19


@pytest.mark.parametrize("data", [DIGITS, FASHION, CIFAR, (3, (64, 48))])
@pytest.mark.parametrize("name", OWN)
def test_forward_shapes_and_gradients_everywhere(
    name: str, data: tuple[int, tuple[int, int]]
) -> None:
    channels, size = data
    if min(size) < OWN[name][1]:
        with pytest.raises(ValueError, match=rf"{name} needs images of at least 32x32 pixels"):
            build(name, num_classes=7, channels=channels, size=size)
        return
    model = build(name, num_classes=7, channels=channels, size=size, width=0.1)
    scores = model(torch.randn(2, channels, *size))
    assert scores.shape == (2, 7)
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", OWN)
def test_smallest_images(name: str) -> None:
    side = OWN[name][1]
    model = build(name, num_classes=3, channels=1, size=(side, side), width=0.1)
    assert model.eval()(torch.zeros(1, 1, side, side)).shape == (1, 3)


@pytest.mark.parametrize("name", OWN)
def test_width_scales_every_hidden_width(name: str) -> None:
    def widths(width: float) -> list[int]:
        model = build(name, num_classes=10, channels=3, size=(32, 32), width=width)
        return [p.shape[0] for p in model.parameters()][:-2]  # the outputs stay

    assert widths(0.5) == [w // 2 for w in widths(1.0)]
    assert set(widths(1e-6)) == {1}


def test_vgg16_starts_as_in_the_papers_code() -> None:
    torch.manual_seed(0)
    model = build("vgg16", num_classes=10, channels=3, size=(32, 32))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == 2
    for layer in convolutions:
        assert layer.bias is not None
        assert not layer.bias.any()
        expected = (2 / (9 * layer.out_channels)) ** 0.5
        # The relative standard error of a standard deviation is 1 / sqrt(2 n); allow five.
        error = 5 / (2 * layer.weight.numel()) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=error)


def test_wrn28x10_has_the_papers_batchnorm_and_biases() -> None:
    model = build("wrn28x10", num_classes=10, channels=3, size=(32, 32), width=0.1)
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert momenta == [0.1] * 24 + [0.9]
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_initial_weights_follow_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = build("convnet", num_classes=10, channels=1, size=(8, 8))
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_torchvision_model_comes_in_training_mode_with_untouched_statistics() -> None:
    model = build("resnet18", num_classes=5, channels=3, size=(32, 32))
    assert model.training
    assert not any(b.any() for name, b in model.named_buffers() if "mean" in name)


def test_own_model_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
from torch import nn
def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
def wrong(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes + 1))
def nothing(num_classes):
    return None
def broken(num_classes):
    raise KeyError("oops")
class Broken(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
    def forward(self, x):
        return x.no_such_thing
number = 3
"""
    (tmp_path / "no_python.py").write_text("import torch\ndef net(:\n")
    (tmp_path / "my_networks.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = build("my_networks:net", num_classes=4, channels=1, size=(8, 8))
    assert count(model) == 64 * 4 + 4
    for name, error, message in [
        ("my_networks:wrong", ValueError, r"maps one image to \(1, 5\): make it return one score"),
        ("my_networks:nothing", TypeError, "returned a NoneType: make it return an nn.Module"),
        ("my_networks:missing", ImportError, "cannot import model 'my_networks:missing'"),
        ("no_such_module:net", ImportError, "No module named 'no_such_module'"),
        ("no_python:net", ImportError, r"SyntaxError: .*no_python.py, line 2"),
        (
            "my_networks:number",
            TypeError,
            "number is a int: give module.path:callable",
        ),
        ("./my_networks.py:net", ImportError, "write my_networks:net, as Python imports it"),
        ("torch:nn", TypeError, "torch:nn is a module: give module.path:callable"),
        ("os.path:join", ValueError, r"os.path:join\(num_classes=4\) failed with TypeError"),
        ("my_networks:broken", ValueError, r"KeyError: 'oops' \(my_networks.py, line 10\)"),
        ("my_networks:Broken", ValueError, r"AttributeError: .*\(my_networks.py, line 15\)"),
    ]:
        with pytest.raises(error, match=message) as caught:
            build(name, num_classes=4, channels=1, size=(8, 8))
        assert "\n" not in str(caught.value)


def test_a_network_that_cannot_be_trained_is_refused() -> None:
    frozen = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    with pytest.raises(ValueError, match="outputs of mine do not depend on a trainable parameter"):
        check_trainable(frozen, "mine", 1, (8, 8))
    frozen[2].bias.requires_grad_(True)
    check_trainable(frozen, "mine", 1, (8, 8))
    assert frozen.training
    assert frozen[0].num_batches_tracked == 0


def test_timm_models_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, num_classes: int, in_chans: int) -> nn.Module:
        if name != "known":
            raise RuntimeError(f"Unknown model ({name})")
        return nn.Sequential(nn.Conv2d(in_chans, num_classes, 8), nn.Flatten())

    timm = ModuleType("timm")
    monkeypatch.setattr(timm, "create_model", create_model, raising=False)
    monkeypatch.setitem(sys.modules, "timm", timm)
    model = build("timm:known", num_classes=4, channels=1, size=(8, 8))
    assert count(model) == 64 * 4 + 4
    with pytest.raises(ValueError, match="unknown model timm:other"):
        build("timm:other", num_classes=4, channels=1, size=(8, 8))


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm:vit needs timm: pip install timm"):
        build("timm:vit", num_classes=4, channels=3, size=(32, 32))


@pytest.mark.parametrize(
    ("name", "channels", "side", "width", "message"),
    [
        ("resnet5", 3, 32, 1.0, "unknown model 'resnet5': did you mean resnet50 or"),
        ("qqqq", 3, 32, 1.0, "unknown model 'qqqq': use one of mlp, convnet, resnet20"),
        ("resnet18", 1, 32, 1.0, "resnet18 needs images with 3 channels, these have 1"),
        ("resnet18", 3, 32, 0.5, "width=0.5 is not supported for 'resnet18'.* one of mlp"),
        ("alexnet", 3, 8, 1.0, r"alexnet failed on images with shape \(3, 8, 8\)"),
        ("vit_b_16", 3, 32, 1.0, "vit_b_16 failed on images.*: Wrong image height"),
        ("vgg16_bn", 1, 8, 1.0, "at least 32x32 pixels, these have 8x8: use convnet"),
        ("convnet", 1, 1, 1.0, "at least 2x2 pixels, these have 1x1: use mlp"),
    ],
)
def test_bad_input(name: str, channels: int, side: int, width: float, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(name, num_classes=10, channels=channels, size=(side, side), width=width)
    assert "\n" not in str(caught.value)
