"""A batch of a model's inputs: one tensor, or several arguments by position or by name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from dirprune.landscape.objectives.outputs import flatten

Inputs = Any
"""A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments."""


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a model's call.

    Example:
        >>> arguments({"mask": None})
        ((), {'mask': None})
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def apply(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on a batch."""
    args, kwargs = arguments(inputs)
    return model(*args, **kwargs)


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply a function to every tensor of a batch, and keep its structure."""
    tensors, rebuild = flatten(inputs)
    return rebuild([function(t) for t in tensors])


def cut(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Return the samples from ``start`` to ``stop``."""
    return map_tensors(lambda t: t[start:stop], inputs)
