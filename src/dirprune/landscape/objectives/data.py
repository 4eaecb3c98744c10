"""Frozen data: batches that are the same in every pass."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from dirprune._support.hashing import hash_tensor
from dirprune.landscape.objectives.inputs import Inputs, cut
from dirprune.landscape.objectives.outputs import flatten

Batches = Iterable[tuple[Inputs, Tensor]]
"""A list of (inputs, targets) or a DataLoader; can be iterated over repeatedly."""


class FrozenData:
    """Data that is the same in every pass. The constructor compares two passes.

    Args:
        data: A list of (inputs, targets) batches, a DataLoader, or one pair with all inputs and
            all targets. Inputs are a tensor, or a tuple, list or dict of tensors for a model with
            several arguments; targets are a tensor. Samples are the first dimension of all.
        batch_size: Samples per batch for one pair; other data keeps its batches.

    Raises:
        TypeError: If the data can be read only once, or a batch is not a pair of tensors.
        ValueError: If it is empty, or two passes differ.

    Attributes:
        samples: Number of samples.
        batches: Number of batches.
        digest: Hexadecimal SHA-256 of shapes and values.

    Example:
        >>> data = FrozenData((torch.zeros(5, 3), torch.ones(5)), batch_size=2)
        >>> data.samples, [len(x) for x, y in data]
        (5, [2, 2, 1])
    """

    def __init__(self, data: Any, *, batch_size: int = 500) -> None:
        if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[1], Tensor):
            inputs, targets = data
            data = _split(inputs, targets, batch_size)
        if isinstance(data, Iterator):
            raise TypeError(f"a {type(data).__name__} can be read only once: {_GIVE}")
        if not isinstance(data, Iterable):
            raise TypeError(f"a {type(data).__name__} does not consist of batches: {_GIVE}")
        self._data: Batches = data
        self.samples = self.batches = 0
        digest = hashlib.sha256()
        for one, other in zip_longest(data, data):
            self._compare(one, other)
            if isinstance(one[0], Mapping):
                digest.update(repr(list(one[0])).encode())
            for tensor in flatten(list(one))[0]:
                hash_tensor(digest, tensor)
            self.samples += len(one[1])
            self.batches += 1
        if not self.samples:
            raise ValueError("the data is empty: give at least one batch with one sample")
        self.digest = digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        yield from self._data

    def _compare(self, one: Any, other: Any) -> None:
        fix = "turn shuffling and augmentation off"
        if one is None or other is None:
            raise ValueError(
                f"two passes over the data differ in length, one ends after {self.batches} "
                f"batches: {fix}"
            )
        for batch in (one, other):
            check_batch(batch, self.batches)
        for name, x, y in zip(("inputs", "targets"), one, other):
            for t, u in zip(flatten(x)[0], flatten(y)[0], strict=True):
                if not _equal(t, u):
                    raise ValueError(
                        f"two passes over the data differ: {name} of batch {self.batches} "
                        f"{_difference(t, u)}; {fix}"
                    )


_GIVE = "give a list of (inputs, targets), a DataLoader, or two tensors"


def check_batch(batch: Any, number: int) -> None:
    """Check that a batch is a pair of inputs and targets with equal numbers of samples.

    Raises:
        TypeError: If it is not a pair of tensors or structures of tensors.
        ValueError: If the numbers of samples differ.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(
            f"a batch must be a pair (inputs, targets), got a {type(batch).__name__}{size}: put "
            "several inputs into a tuple or a dict, such as ((a, b), targets)"
        )
    inputs, targets = batch
    tensors = flatten(inputs)[0]
    if not tensors or not all(isinstance(t, Tensor) and t.dim() for t in (*tensors, targets)):
        kinds = ", ".join(type(t).__name__ for t in batch)
        raise TypeError(f"a batch must hold tensors with samples first, got {kinds}")
    for tensor in tensors:
        if len(tensor) != len(targets):
            raise ValueError(
                f"batch {number} has {len(tensor)} inputs and {len(targets)} "
                "targets: give one target for every input"
            )


def _split(inputs: Inputs, targets: Tensor, batch_size: int) -> list[tuple[Inputs, Tensor]]:
    """Split all data into batches."""
    tensors = flatten(inputs)[0]
    if not tensors:
        kind = type(inputs).__name__
        raise TypeError(f"the inputs must be tensors, got a {kind}: use torch.as_tensor")
    if len(tensors[0]) != len(targets):
        raise ValueError(
            f"there are {len(tensors[0]):,} inputs and {len(targets):,} targets: give one "
            "target for every input"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    starts = range(0, max(len(targets), 1), batch_size)
    return [(cut(inputs, k, k + batch_size), targets[k : k + batch_size]) for k in starts]


def _equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors have the same values; NaN equals NaN."""
    if x is y or torch.equal(x, y):
        return True
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())


def _difference(x: Tensor, y: Tensor) -> str:
    if x.shape != y.shape:
        return f"in shape, {tuple(x.shape)} and {tuple(y.shape)}"
    return f"by up to {float((x.double() - y.double()).abs().nan_to_num().max()):.3g}"
