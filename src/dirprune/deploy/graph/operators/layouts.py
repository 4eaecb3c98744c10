"""What holds for every element of a value, stored once where it is the same along a dimension.

A layout of a value with shape (-1, C, H, W) is an array that broadcasts to (C, H, W): with shape
(C, 1, 1) where it depends on the channel alone, (1, 1, 1) where it is the same everywhere.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Layout = NDArray[Any]
ScalarType = TypeVar("ScalarType", bound=np.generic)
Shape = tuple[int, ...]


def compress(full: NDArray[ScalarType]) -> NDArray[ScalarType]:
    """Store a dimension once along which nothing changes; NaN counts as equal to NaN.

    Args:
        full: Any array.

    Returns:
        An array that broadcasts back to it.

    Example:
        >>> compress(np.array([[1, 1, 1], [2, 2, 2]])).shape
        (2, 1)
    """
    for axis in range(full.ndim):
        first = full.take([0], axis)
        if full.shape[axis] > 1 and _same(full, first):
            full = first
    return full


def varying(rank: int) -> NDArray[np.float64]:
    """The layout of constants of a value that depends on the input everywhere."""
    return np.full((1,) * rank, np.nan)


def varies_only_along(layout: Layout, *axes: int) -> bool:
    """Whether every other dimension is stored once.

    Args:
        layout: Of a value.
        axes: Counted without the batch; negative ones from the end.
    """
    allowed = {axis % layout.ndim for axis in axes}
    return all(size == 1 for axis, size in enumerate(layout.shape) if axis not in allowed)


def varies_along(layout: Layout, *axes: int) -> bool:
    """Whether one of these dimensions is not stored once.

    Args:
        layout: Of a value.
        axes: As in :func:`varies_only_along`.
    """
    return any(layout.shape[axis] > 1 for axis in axes)


def vector(layout: NDArray[ScalarType], axis: int, size: int) -> NDArray[ScalarType]:
    """Lay out one dimension in full; the others must be stored once.

    Args:
        layout: Of a value.
        axis: The dimension, counted without the batch.
        size: Its size.

    Returns:
        With shape (size,).
    """
    flat = layout.reshape(layout.shape[axis])
    return np.broadcast_to(flat, (size,))


def joined(layouts: list[NDArray[ScalarType]], sizes: list[int], axis: int) -> NDArray[ScalarType]:
    """Lay out a concatenation.

    Args:
        layouts: Of the parts.
        sizes: Of the parts along the dimension.
        axis: Which dimension, counted without the batch.

    Returns:
        The layout of the whole.
    """
    common = list(np.broadcast_shapes(*(_without(part.shape, axis) for part in layouts)))
    parts = []
    for part, size in zip(layouts, sizes, strict=True):
        shape = (*common[:axis], size, *common[axis + 1 :])
        parts.append(np.broadcast_to(part, shape))
    return compress(np.concatenate(parts, axis))


def reshaped(layout: NDArray[ScalarType], old: Shape, new: Shape) -> NDArray[ScalarType]:
    """Lay out the same elements in another shape.

    Args:
        layout: Of the value before.
        old: Its shape without the batch.
        new: The shape after, without the batch.

    Returns:
        The layout of the value after.

    Example:
        >>> reshaped(np.array([7, 8]).reshape(2, 1, 1), (2, 1, 2), (4,))
        array([7, 7, 8, 8])
    """
    # Dimensions are handled in groups with the same number of elements before and after, so that
    # a group along which nothing changes is never laid out in full.
    full: list[int] = []
    result: list[int] = []
    for before, after in _groups(old, new):
        own = layout.shape[before]
        same = all(size == 1 for size in own)
        full += own if same else old[before]
        result += (1,) * len(new[after]) if same else new[after]
    return compress(np.broadcast_to(layout, full).reshape(result))


def operand(constant: NDArray[ScalarType], rank: int) -> NDArray[ScalarType]:
    """Align a tensor as numpy broadcasts it against a value.

    Args:
        constant: Without batch, or with one of size 1.
        rank: Dimensions of the value, with the batch.

    Returns:
        With ``rank - 1`` dimensions.
    """
    aligned: NDArray[ScalarType] = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    return aligned.reshape(aligned.shape[1:])


def _groups(old: Shape, new: Shape) -> Iterator[tuple[slice, slice]]:
    """The shortest runs of dimensions that hold the same number of elements in both shapes."""
    i = j = 0
    while i < len(old) or j < len(new):
        start = i, j
        left = right = 1
        while (i, j) == start or left != right:
            if (left <= right and i < len(old)) or j == len(new):
                left *= old[i]
                i += 1
            else:
                right *= new[j]
                j += 1
        yield slice(start[0], i), slice(start[1], j)


def _same(full: Layout, first: Layout) -> bool:
    equal = full == first
    if full.dtype.kind == "f":
        equal |= np.isnan(full) & np.isnan(first)
    return bool(equal.all())


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], 1, *shape[axis + 1 :])
