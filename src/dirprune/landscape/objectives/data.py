"""Frozen data: batches that are the same in every pass."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from dirprune._support.hashing import hash_tensor

PairsOfTensors = Iterable[tuple[Tensor, Tensor]]
"""A list of (inputs, targets) or a DataLoader; can be iterated over repeatedly."""


class FrozenData:
    """Data that is the same in every pass. The constructor compares two passes.

    Args:
        data: A list of (inputs, targets) batches, a DataLoader, or two tensors with all inputs
            and all targets; samples are the first dimension of both.
        batch_size: Samples per batch for two tensors; other data keeps its batches.

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
        if isinstance(data, (tuple, list)) and [isinstance(t, Tensor) for t in data] == [True] * 2:
            inputs, targets = data
            if len(inputs) != len(targets):
                raise ValueError(
                    f"there are {len(inputs):,} inputs and {len(targets):,} targets: give one "
                    "target for every input"
                )
            if batch_size < 1:
                raise ValueError(f"batch_size must be at least 1, got {batch_size}")
            data = list(zip(inputs.split(batch_size), targets.split(batch_size)))
        if not isinstance(data, Iterable) or isinstance(data, Iterator):
            raise TypeError(
                f"a {type(data).__name__} can be read only once: give a list of "
                "(inputs, targets), a DataLoader, or two tensors"
            )
        self._data: PairsOfTensors = data
        self.samples = self.batches = 0
        digest = hashlib.sha256()
        for one, other in zip_longest(data, data):
            self._compare(one, other)
            for tensor in one:
                hash_tensor(digest, tensor)
            self.samples += len(one[0])
            self.batches += 1
        if not self.samples:
            raise ValueError("the data is empty: give at least one batch with one sample")
        self.digest = digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._data

    def _compare(self, one: Any, other: Any) -> None:
        fix = "turn shuffling and augmentation off"
        if one is None or other is None:
            raise ValueError(
                f"two passes over the data differ in length, one ends after {self.batches} "
                f"batches: {fix}"
            )
        for batch in (one, other):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError("a batch must be a pair (inputs, targets)")
            if not all(isinstance(t, Tensor) and t.dim() for t in batch):
                kinds = ", ".join(type(t).__name__ for t in batch)
                raise TypeError(f"a batch must hold two tensors with samples first, got {kinds}")
            if len(batch[0]) != len(batch[1]):
                raise ValueError(
                    f"batch {self.batches} has {len(batch[0])} inputs and {len(batch[1])} "
                    "targets: give one target for every input"
                )
        for name, x, y in zip(("inputs", "targets"), one, other):
            if x is y or torch.equal(x, y):
                continue
            if x.shape != y.shape:
                by = f"in shape, {tuple(x.shape)} and {tuple(y.shape)}"
            else:
                by = f"by up to {float((x.double() - y.double()).abs().max()):.3g}"
            raise ValueError(
                f"two passes over the data differ: {name} of batch {self.batches} {by}; {fix}"
            )
