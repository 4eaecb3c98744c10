"""BatchNorm on a batch that gives it one value per channel, of which there is no variance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics_for_single_values(net: nn.Module, batch_size: int) -> Iterator[None]:
    """Let BatchNorm layers in training mode take a single value per channel.

    The last batch of an epoch may be one image, and so may a part of a batch. Where such an image
    is also a single pixel, as at the end of a network, PyTorch refuses it. Here the layer
    normalises by its running statistics, and leaves them as they are.

    Args:
        net: In training mode.
        batch_size: Images of the batch; other sizes than 1 need nothing.
    """
    handles: list[Any] = []
    if batch_size == 1:
        for module in net.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(_freeze))
                handles.append(module.register_forward_hook(_thaw, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _freeze(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if module.training and inputs[0].numel() == inputs[0].shape[1]:
        module.training = False
        module._frozen_by_single_value = True  # type: ignore[assignment]


def _thaw(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
    if module.__dict__.pop("_frozen_by_single_value", False):
        module.training = True
