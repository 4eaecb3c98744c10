"""BatchNorm for batches with a single value per channel, which have no variance."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics_for_single_values(net: nn.Module, batch_size: int) -> Iterator[None]:
    """Let BatchNorm layers in training mode accept a single value per channel.

    The last batch of an epoch may have one image, and so may a micro-batch. If the layer's input
    then has a single pixel, as at the end of a network, PyTorch raises an error. Inside this
    context the layer normalises with its running statistics and does not update them.

    Args:
        net: In training mode.
        batch_size: Images of the batch; the context has an effect only for 1.
    """
    layers = [
        module
        for module in (net.modules() if batch_size == 1 else ())
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None
    ]
    hooks = [layer.register_forward_pre_hook(_use_running_statistics) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.training = True


def _use_running_statistics(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    layer.training = inputs[0].numel() > inputs[0].shape[1]
