"""The memory format of convolutions and images."""

import torch
from torch import nn


def fastest_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Choose the memory format of a model's convolutions and images.

    Channels last is faster on CPU and CUDA. On a CPU it is not used for networks with a strided
    1x1 convolution of few channels: there torch 2.14 writes out of bounds in the backward pass
    (seen with 3 and 4 input channels, not with 8).

    Example:
        >>> fastest_layout(nn.Conv2d(3, 8, 3), torch.device("cpu"))
        torch.channels_last
        >>> fastest_layout(nn.Conv2d(4, 8, 1, stride=2), torch.device("cpu"))
        torch.contiguous_format
    """
    safe = device.type == "cuda" or (
        device.type == "cpu" and not any(map(_is_narrow_shortcut, model.modules()))
    )
    return torch.channels_last if safe else torch.contiguous_format


def _is_narrow_shortcut(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < 8
    )
