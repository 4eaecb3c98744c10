"""What an exported program computes, as a graph under construction knows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor

Arguments = SimpleNamespace
"""The arguments of an ATen operator by the names in its schema."""


class Value(NamedTuple):
    """What depends on the input.

    Attributes:
        number: Of the value in the graph.
        dims: For each dimension, the dimensions of the graph that it is made of; 0 is the batch.
    """

    number: int
    dims: tuple[tuple[int, ...], ...]


@dataclass(eq=False)
class Constant:
    """What does not: a parameter, a buffer, or what follows from these."""

    tensor: Tensor
    name: str | None = None
    trained: bool = False


class BatchSize:
    """A number that follows from the size of the batch."""

    def __repr__(self) -> str:
        return "the size of the batch"


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
