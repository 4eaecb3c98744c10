"""Reading by an index: constant places, and places that depend on the input."""

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.indexing import take_places, take_same_places
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.operators.sample_rows import (
    DEPENDS,
    from_the_end,
    gathered,
    is_batch_index,
    rows_of_all_samples,
)

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value


def _capture_index_select(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if not hasattr(a.index, "tensor"):
        return rows_of_all_samples(b, a.self, a.dim, a.index, results[0])
    return take_places(b, a.self, a.dim, a.index.tensor)


def _capture_index(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """x[:, rows, columns] with constant places whose product is a grid, or of one dimension."""
    given = [(dim, index) for dim, index in enumerate(a.indices) if index is not None]
    if any(is_batch_index(b, a.self, dim, index) for dim, index in given):
        return _index_of_each_sample(b, a.self, given, results[0])
    if hasattr(a.self, "dims") and _follow_from_sizes(b, [index for _, index in given]):
        return _same_of_every_sample(b, a.self, given, results[0])
    if len(given) == 1 and not hasattr(given[0][1], "tensor"):
        dim, index = given[0]
        if hasattr(a.self, "tensor") and index.number not in b.booleans:
            index = from_the_end(b, index, b.sizes(a.self)[dim])
        return rows_of_all_samples(b, a.self, dim, index, results[0])
    if any(not hasattr(index, "tensor") for _, index in given):
        raise ValueError(DEPENDS)
    tensors = [(dim, index.tensor) for dim, index in given]
    if any(t.dtype == torch.bool for _, t in tensors):
        tensors = [(dim, t.nonzero()[:, 0] if t.dtype == torch.bool else t) for dim, t in tensors]
    rank = max(t.dim() for _, t in tensors)
    dims = [dim for dim, _ in tensors]
    spread = [t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)) for _, t in tensors]
    owners = [[axis for axis in range(rank) if t.shape[axis] > 1] for t in spread]
    flat = [axis for own in owners for axis in own]
    _check_neighbours(dims)
    x = a.self
    if len(tensors) == 1 or (
        all(len(own) <= 1 for own in owners)
        and flat == sorted(set(flat))
        and len(flat) == len([s for s in np.broadcast_shapes(*(t.shape for t in spread)) if s > 1])
    ):
        for dim, index in tensors:
            x = take_places(b, x, dim, index)
        return b.reshape(x, results[0])  # type: ignore[no-any-return]
    # Places of a plane: one dimension of its elements, and one index into it.
    sizes = b.sizes(x)
    held = [sizes[dim] for dim in dims]
    merged = (*sizes[: dims[0]], int(np.prod(held)), *sizes[dims[-1] + 1 :])
    place: Any = 0
    for t, size in zip(spread, held):
        place = place * size + t.long() % size
    x = take_places(b, b.reshape(x, merged), dims[0], place)
    return b.reshape(x, results[0])


def _check_neighbours(dims: "list[int]") -> None:
    if dims != list(range(dims[0], dims[0] + len(dims))):
        raise ValueError("it selects places of dimensions that are apart")


def _follow_from_sizes(b: "Builder", indices: "list[Any]") -> bool:
    """Whether places follow from sizes that vary, so that they are the same for every sample."""
    values = [index for index in indices if not hasattr(index, "tensor")]
    return bool(values) and not any(v.holds_batch or v.number in b.booleans for v in values)


def _same_of_every_sample(
    b: "Builder", x: "Value", given: "list[tuple[int, Any]]", sizes: Shape
) -> "Value":
    """x[:, rows, columns] with places that follow from sizes: one index into merged dimensions."""
    dims, own = [dim for dim, _ in given], b.sizes(x)
    _check_neighbours(dims)
    place, *more = [from_the_end(b, b.as_value(index), own[dim]) for dim, index in given]
    for dim, index in zip(dims[1:], more):
        place = b.combine("add", [b.multiplied(place, own[dim]), index])
    whole = (*own[: dims[0]], prod(own[dim] for dim in dims), *own[dims[-1] + 1 :])
    flat = b.reshape(place, (prod(b.sizes(place)),))
    return b.reshape(take_same_places(b, b.reshape(x, whole), dims[0], flat), sizes)


def _index_of_each_sample(
    b: "Builder", x: "Value", given: "list[tuple[int, Any]]", sizes: Shape
) -> "Value":
    """x[arange(batch), ..., places]: places of every sample, constant or from the input."""
    rest = [(dim, index) for dim, index in given if not is_batch_index(b, x, dim, index)]
    if len(given) != 2 or len(rest) != 1 or given[0][0] != 0 or rest[0][0] == 0:
        raise ValueError("it selects places of dimensions that are apart")
    dim, index = rest[0]
    # The selected places come before the other dimensions, as in torch.
    order = [0, dim, *(d for d in range(1, len(b.sizes(x))) if d != dim)]
    x = b.permute(x, order) if dim > 1 else x
    own = b.sizes(index)
    if hasattr(index, "tensor") or index.number in b.ranges:
        if hasattr(index, "tensor"):
            x = take_places(b, x, 1, index.tensor)
        else:
            x = b.take(x, 1, 0, prod(own))
        ahead = sizes[: len(sizes) - len(b.sizes(x)) + 2]
        batch = next(i for i, size in enumerate(ahead) if size < 0)
        if batch >= len(ahead) - len(own) and own[batch - len(ahead)] != 1:
            raise ValueError("it selects other places of every sample")
        order = [*range(1, batch + 1), 0, *range(batch + 1, len(sizes))]
        first = (sizes[batch], *ahead[:batch], *sizes[batch + 1 :])
        return b.permute(b.reshape(x, first), order)
    if index.dims[0] != (0,):
        raise ValueError("it selects places of samples that are not first")
    return gathered(b, x, from_the_end(b, index, b.sizes(x)[1]), sizes)


SELECTION = {
    "index_select": _capture_index_select,
    "index": _capture_index,
    "_unsafe_index": _capture_index,
}
"""The ATen operators that read places, by name."""
