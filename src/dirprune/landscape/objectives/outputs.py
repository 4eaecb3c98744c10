"""Nested outputs: tensors, and dicts, tuples and dataclasses of tensors."""

import dataclasses
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

Rebuild = Callable[[list[Tensor]], Any]
"""Puts tensors back into the structure that they were taken from."""


def flatten(outputs: Any) -> tuple[list[Tensor], Rebuild]:
    """Flatten a model's outputs to a list of tensors.

    Args:
        outputs: A tensor, or nested dicts, tuples, named tuples, lists or dataclasses of tensors;
            other values are kept.

    Returns:
        The tensors, and a function that rebuilds the structure with other tensors.

    Example:
        >>> tensors, rebuild = flatten({"logits": torch.ones(1), "extra": (torch.zeros(1), None)})
        >>> rebuild([2 * t + 1 for t in tensors])
        {'logits': tensor([3.]), 'extra': (tensor([1.]), None)}
    """
    if isinstance(outputs, Tensor):
        return [outputs], lambda tensors: tensors[0]
    parts = _children(outputs)
    if parts is None:
        return [], lambda tensors: outputs
    split = {key: flatten(value) for key, value in parts.items()}

    def rebuild(tensors: list[Tensor]) -> Any:
        found, start = {}, 0
        for key, (own, build) in split.items():
            found[key] = build(tensors[start : start + len(own)])
            start += len(own)
        return _replaced(outputs, found)

    return [tensor for own, _ in split.values() for tensor in own], rebuild


def join(first: Any, second: Any, samples: tuple[int, int]) -> Any:
    """Concatenate two batches of outputs along the samples.

    Args:
        first: Outputs of one batch.
        second: Outputs of another one, with the same structure.
        samples: Numbers of samples of both batches. For tensors of another size, which have no
            samples, those of the first batch are used.

    Raises:
        RuntimeError: If sizes other than the number of samples differ.
    """
    ours, rebuild = flatten(first)
    theirs, _ = flatten(second)
    return rebuild(
        [
            torch.cat([a, b]) if (_samples(a), _samples(b)) == samples else a
            for a, b in zip(ours, theirs, strict=True)
        ]
    )


def _samples(tensor: Tensor) -> int:
    return len(tensor) if tensor.dim() else -1


def _children(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def _replaced(like: Any, children: dict[Any, Any]) -> Any:
    if isinstance(like, tuple):
        values = children.values()
        return type(like)(*values) if hasattr(like, "_fields") else tuple(values)
    if isinstance(like, list):
        return list(children.values())
    changed = copy(like)
    for key, value in children.items():
        if isinstance(like, Mapping):
            changed[key] = value
        else:
            object.__setattr__(changed, key, value)
    return changed
