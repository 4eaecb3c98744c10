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
    changed: set[nn.Module] = set()

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer.training and inputs[0].numel() == inputs[0].shape[1]:
            layer.training = False
            changed.add(layer)

    def after(layer: nn.Module, *_: object) -> None:
        if layer in changed:
            layer.training = True
            changed.remove(layer)

    handles = []
    for module in net.modules() if batch_size == 1 else ():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
