"""Re-estimation of BatchNorm's running statistics after the weights have changed."""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def refresh_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> int:
    r"""Re-estimate every BatchNorm's running statistics on the given inputs, in place.

    The new statistics are the means of the batch statistics over K batches, in one pass:

    .. math:: \hat m = \frac1K \sum_k m_k, \qquad \hat s^2 = \frac1K \sum_k s_k^2

    Only BatchNorm layers are in training mode; dropout stays off. Momentum and the mode of every
    module are restored. Layers without running statistics are not changed.

    A batch with a single value per channel, such as a last batch of one sample, has no variance.
    A layer skips such a batch and normalises it with the statistics of the previous batches.

    Args:
        model: Any module.
        batches: Inputs of the model, at least one batch. Use inputs without augmentation, as in
            evaluation.

    Returns:
        The number of refreshed layers (0 if the model has no BatchNorm; then no batch is read).

    Raises:
        ValueError: If there are layers to refresh and ``batches`` is empty, or has a single value
            per channel in every batch.
        TypeError: If a batch is not a tensor. After an exception the statistics are unchanged.

    References:
        Averaging Weights Leads to Wider Optima and Better Generalization (Izmailov et al., 2018),
        section 3.2, https://arxiv.org/abs/1803.05407

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
        >>> refresh_batchnorm(model, [torch.full((4, 2), 3.0), torch.full((4, 2), 5.0)])
        1
        >>> model[0].running_mean
        tensor([4., 4.])
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError(
            "refresh_batchnorm needs at least one batch of inputs, got none: give a new iterator"
        )
    modes = [(m, m.training) for m in model.modules()]
    momenta = [layer.momentum for layer in layers]
    statistics = [{k: b.clone() for k, b in layer.named_buffers()} for layer in layers]
    model.eval()
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # cumulative mean
    skipping: set[_BatchNorm] = set()

    def skip_single_value(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer.training = inputs[0].numel() > inputs[0].shape[1]
        if not layer.training and isinstance(layer, _BatchNorm):
            skipping.add(layer)

    hooks = [layer.register_forward_pre_hook(skip_single_value) for layer in layers]
    try:
        for batch in chain([first], stream):
            if not isinstance(batch, Tensor):
                raise TypeError(
                    f"refresh_batchnorm needs batches of inputs as tensors, got a "
                    f"{type(batch).__name__}; give (x for x, y in loader)"
                )
            model(batch)
        for layer in skipping:
            if layer.num_batches_tracked is not None and not int(layer.num_batches_tracked):
                raise ValueError(
                    f"a {type(layer).__name__} gets a single value per channel in every batch, "
                    "which has no variance: give batches of two or more samples"
                )
    except BaseException:
        for layer, before in zip(layers, statistics):
            layer.load_state_dict(before, strict=False)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return len(layers)
