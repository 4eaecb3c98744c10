"""Re-estimation of BatchNorm's running statistics after the weights have changed."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dirprune._support.wrappers import unwrap

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a model."""


def refresh_batchnorm(model: nn.Module, batches: Iterable[Tensor | Mapping[str, Any]]) -> int:
    r"""Re-estimate every BatchNorm's running statistics on the given inputs, in place.

    The new statistics are the means of the batch statistics over K batches, in one pass:

    .. math:: \hat m = \frac1K \sum_k m_k, \qquad \hat s^2 = \frac1K \sum_k s_k^2

    Only BatchNorm layers are in training mode; dropout stays off. Momentum and the mode of every
    module are restored. Layers without running statistics are not changed.

    A layer that no batch reaches, such as one of an auxiliary head, keeps its statistics.

    A batch with a single value per channel, such as a last batch of one sample, has no variance.
    A layer skips such a batch and normalises it with the statistics of the previous batches.

    Args:
        model: Any module.
        batches: Inputs of the model, at least one batch: a tensor, or a dict of keyword
            arguments. Use inputs without augmentation, as in evaluation.

    Returns:
        The number of refreshed layers (0 if the model has no BatchNorm; then no batch is read).

    Raises:
        ValueError: If there are layers to refresh and ``batches`` is empty, or has a single value
            per channel in every batch.
        TypeError: If a batch is neither a tensor nor a dict. After an exception the statistics
            are unchanged.

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
    if isinstance(batches, Tensor):
        raise TypeError("refresh_batchnorm needs several batches, got one tensor: give [inputs]")
    return refresh_statistics(model, map(_call, batches))


def _call(batch: Any) -> Call:
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    raise TypeError(
        f"refresh_batchnorm needs batches of inputs as tensors, got a {type(batch).__name__}; "
        "give (x for x, y in loader), or a dict of keyword arguments for each batch"
    )


@torch.no_grad()
def refresh_statistics(model: nn.Module, calls: Iterable[Call]) -> int:
    """Do what :func:`refresh_batchnorm` does, for any arguments of the model."""
    model = unwrap(model)  # torch.compile would compile again for every mode
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    stream = iter(calls)
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

    def skip_single_value(
        layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> None:
        inputs = args[0] if args else kwargs["input"]
        layer.training = inputs.numel() > inputs.shape[1]
        if not layer.training and isinstance(layer, _BatchNorm):
            skipping.add(layer)

    hooks = [
        layer.register_forward_pre_hook(skip_single_value, with_kwargs=True) for layer in layers
    ]
    try:
        for args, kwargs in chain([first], stream):
            model(*args, **kwargs)
        unused = [not int(layer.num_batches_tracked or 0) for layer in layers]
        for layer, before, is_unused in zip(layers, statistics, unused):
            if is_unused and layer in skipping:
                raise ValueError(
                    f"a {type(layer).__name__} gets a single value per channel in every batch, "
                    "which has no variance: give batches of two or more samples"
                )
            if is_unused:
                layer.load_state_dict(before, strict=False)
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
    return unused.count(False)
