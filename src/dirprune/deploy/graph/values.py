"""What an exported program computes, as a graph under construction knows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Arguments = SimpleNamespace
"""The arguments of an ATen operator by the names in its schema."""


class Value(NamedTuple):
    """What depends on the input, or on the size of the batch alone.

    Attributes:
        number: Of the value in the graph.
        dims: For each dimension, the dimensions of the graph that it is made of; 0 is the batch.
            A value without it is the same for every sample.
    """

    number: int
    dims: tuple[tuple[int, ...], ...]

    @property
    def holds_batch(self) -> bool:
        """Whether a dimension is made of the batch."""
        return any(0 in group for group in self.dims)


@dataclass(eq=False)
class Constant:
    """What does not: a parameter, a buffer, or what follows from these."""

    tensor: "Tensor"
    name: str | None = None
    trained: bool = False


@dataclass(frozen=True)
class Selected:
    """The elements of a value where a mask is true.

    They can only be written where they were, or be read as the first or last row of each sample.

    Attributes:
        value: All elements.
        mask: Number of the mask.
        by_sample: Whether they are rows of each sample, as many of each.
    """

    value: Value
    mask: int
    by_sample: bool = False


@dataclass(frozen=True)
class BatchSize:
    """A number that follows from the size of the batch.

    Attributes:
        expression: Of sympy.
    """

    expression: Any


def plain_dims(rank: int) -> tuple[tuple[int, ...], ...]:
    """The dimensions of a value as they are in the graph."""
    return tuple((dim,) for dim in range(rank))


def renumbered(dims: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Number the graph's dimensions in the order in which they occur, the batch with 0."""
    number = 0
    result = []
    for group in dims:
        mine = []
        for g in group:
            number += g != 0
            mine.append(number if g else 0)
        result.append(tuple(mine))
    return tuple(result)


def graph_dims(sizes: Sequence[int], like: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The sizes of something without batch as dimensions of the graph, to broadcast with a value.

    Args:
        sizes: As many as the value has.
        like: The dimensions of the value.

    Returns:
        Without the batch.

    Raises:
        ValueError: If it is not the same for every sample.
    """
    found: list[int] = []
    for size, group in zip(sizes, like, strict=True):
        if 0 not in group:
            found.append(size)
            continue
        if size != 1:
            raise ValueError(f"it combines the batch with a size of {size}")
        found += (1,) * (len(group) - 1)
    return tuple(found)


def reshaped(
    shape: Sequence[int], dims: Sequence[tuple[int, ...]], sizes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Reshape a value that holds the batch.

    Args:
        shape: Of the value in the graph, -1 first.
        dims: Of the value.
        sizes: The new ones; ``-c`` is c times the batch.

    Returns:
        The new shape in the graph, and the new dims.

    Raises:
        ValueError: If the batch would be mixed with another dimension.
    """
    flat = [g for group in dims for g in group]
    before = tuple(prod(shape[g] for g in group) for group in dims)
    mixed = ValueError(f"it mixes the batch with the rest: {before} to {tuple(sizes)}")
    ahead = prod(shape[g] for g in flat[: flat.index(0)])
    held = [i for i, size in enumerate(sizes) if size < 0]
    if len(held) != 1 or prod(sizes) != prod(before):
        raise mixed
    place, first = held[0], prod(sizes[: held[0]])
    left, right = ahead // first, -sizes[place] * first // ahead
    if left * first != ahead or left * right != -sizes[place]:
        raise mixed
    new: list[int] = [-1]
    found: list[tuple[int, ...]] = []
    for i, size in enumerate(sizes):
        parts = [size] if i != place else [s for s in (left, -1, right) if s != 1]
        numbers = []
        for part in parts:
            numbers.append(0 if part == -1 else len(new))
            if part != -1:
                new.append(part)
        found.append(tuple(numbers))
    return tuple(new), tuple(found)
