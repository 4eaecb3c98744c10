"""Build a network by its name, and check it on one image."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dirprune._support.suggestions import did_you_mean
from dirprune.models.convnet import convnet
from dirprune.models.mlp import mlp
from dirprune.models.names import TORCHVISION
from dirprune.models.resnet import resnet20
from dirprune.models.vgg import vgg16, vgg16_bn
from dirprune.models.wide_resnet import wrn28x10

BuildFunction = Callable[[int, int, tuple[int, int], float], nn.Module]
"""Builds a network for a number of classes, the channels of the images, their height and width,
and a factor on all hidden widths."""

OWN: dict[str, tuple[BuildFunction, int]] = {
    "mlp": (mlp, 1),
    "convnet": (convnet, 2),
    "resnet20": (resnet20, 1),
    "vgg16": (vgg16, 32),
    "vgg16_bn": (vgg16_bn, 32),
    "wrn28x10": (wrn28x10, 1),
}
"""How to build each of dirprune's own networks, and the smallest side of its images."""


def build(
    name: str,
    *,
    num_classes: int,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    width: float = 1.0,
) -> nn.Module:
    """Build a network with random initial weights from torch's default generator.

    Args:
        name: mlp, convnet, resnet20, vgg16, vgg16_bn or wrn28x10; a torchvision classifier such
            as resnet50 (vgg16 and vgg16_bn are dirprune's; torchvision's are
            ``torchvision.models:vgg16`` and so on); ``timm:NAME``; or ``module.path:callable``
            for your own model, importable from the working directory and called as
            ``callable(num_classes=num_classes)``. The last form runs code: see
            :func:`dirprune.models.names_code`.
        num_classes: Number of outputs.
        channels: Channels of the images.
        size: Height and width of the images.
        width: Factor on every hidden width; only for dirprune's own networks.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If the name is unknown, or the network does not fit the images or classes.
        TypeError: If your callable does not return an nn.Module.
        ImportError: If timm or your module cannot be imported.

    Example:
        >>> model = build("vgg16", num_classes=10)
        >>> sum(p.numel() for p in model.parameters())
        15245130
    """
    if name in OWN:
        builder, smallest = OWN[name]
        if min(size) < smallest:
            other = "mlp" if name == "convnet" else "convnet"
            raise ValueError(
                f"{name} needs images of at least {smallest}x{smallest} pixels, "
                f"these have {size[0]}x{size[1]}: use {other} or larger images"
            )
        return builder(num_classes, channels, size, width)
    if width != 1.0:
        raise ValueError(
            f"width={width} is not supported for {name!r}: leave width at 1, or use one of "
            f"{', '.join(OWN)}"
        )
    if name.startswith("timm:"):
        model = _from_timm(name.removeprefix("timm:"), num_classes, channels)
    elif name.startswith(TORCHVISION):
        model = _from_torchvision(name.removeprefix(TORCHVISION), num_classes, channels)
    elif ":" in name:
        model = _from_user(name, num_classes)
    else:
        model = _from_torchvision(name, num_classes, channels)
    _check_outputs(model, name, num_classes, (1, channels, *size))
    return model


def _from_torchvision(name: str, num_classes: int, channels: int) -> nn.Module:
    from torchvision import models  # takes seconds

    available = models.list_models(module=models)  # type: ignore[attr-defined]
    if name not in available:
        hint = did_you_mean(name, [*OWN, *available])
        raise ValueError(
            f"unknown model {name!r}: {hint}use one of {', '.join(OWN)}, a torchvision classifier "
            f"such as resnet50, timm:NAME, or module.path:callable"
        )
    if channels != 3:
        raise ValueError(
            f"{name} needs images with 3 channels, these have {channels}: use convnet"
        )
    # By default these two return a tuple with the outputs of auxiliary heads in training mode.
    plain = {"aux_logits": False, "init_weights": True}
    options = plain if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(  # type: ignore[attr-defined]
        name, weights=None, num_classes=num_classes, **options
    )
    return model


def _from_timm(name: str, num_classes: int, channels: int) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(f"timm:{name} needs timm: pip install timm ({error})") from error
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=channels)
    except RuntimeError as error:
        raise ValueError(
            f"unknown model timm:{name}: use a name from timm.list_models()"
        ) from error
    return model


def _from_user(name: str, num_classes: int) -> nn.Module:
    path, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # console scripts do not add the working directory
    try:
        function: Any = getattr(importlib.import_module(path), attribute)
    except Exception as error:
        module = path.removesuffix(".py").lstrip("./").replace("/", ".")
        hint = f": write {module}:{attribute}, as Python imports it" if module != path else ""
        raise ImportError(f"cannot import model {name!r}: {format_error(error)}{hint}") from error
    if not callable(function):
        raise TypeError(
            f"{name} is a {type(function).__name__}: give module.path:callable, whose callable "
            "takes num_classes and returns an nn.Module"
        )
    try:
        model = function(num_classes=num_classes)
    except Exception as error:
        raise ValueError(
            f"{name}(num_classes={num_classes}) failed with {format_error(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} returned a {type(model).__name__}: make it return an nn.Module")
    return model


def format_error(error: Exception) -> str:
    """Describe an error in a user's or a library's code, with the line that raised it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    reason = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {reason} ({Path(at.filename).name}, line {at.lineno})"


@torch.no_grad()
def _check_outputs(
    model: nn.Module, name: str, num_classes: int, shape: tuple[int, int, int, int]
) -> None:
    """Check the outputs for a blank image, in evaluation mode so that no statistics change."""
    model.eval()
    try:
        outputs = model(torch.zeros(shape))
    except Exception as error:
        raise ValueError(
            f"{name} failed on images with shape {shape[1:]} ({format_error(error)}): choose "
            "another model or other images"
        ) from error
    model.train()
    found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if found != (1, num_classes):
        raise ValueError(
            f"{name} maps one image to {found}: make it return one score per class, with shape "
            f"(1, {num_classes})"
        )


def check_trainable(model: nn.Module, name: str, channels: int, size: tuple[int, int]) -> None:
    """Check that the outputs have a gradient; the network is in training mode afterwards.

    Raises:
        ValueError: If the outputs do not depend on a trainable parameter.
    """
    model.eval()  # so that no statistics change
    with torch.enable_grad():
        outputs = model(torch.zeros((1, channels, *size)))
    model.train()
    if not outputs.requires_grad:
        raise ValueError(
            f"the outputs of {name} do not depend on a trainable parameter: set requires_grad, "
            "and remove no_grad and detach from its forward"
        )
