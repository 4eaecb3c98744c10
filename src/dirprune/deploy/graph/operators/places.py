"""Writing to places of a tensor, and reading windows and diagonals of it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.batch import count_up
from dirprune.deploy.graph.operators.indexing import take_places, take_same_places
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.operators.sample_rows import from_the_end, is_batch_index
from dirprune.deploy.graph.traced_sizes import varies
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value


# ---- places that depend on the input


def _capture_scatter(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write x[index[k]] = source[k] along a dimension; of equal places the last one wins.

    For every place j, all k are compared: find the largest k with index[k] = j, and gather.
    """
    x, dim, hits, counts = _hits(b, a, results[0])
    written = b.reduce("amax", hits, dim + 1, False)
    if not hasattr(a, "src"):
        return b.combine("where", [written, b.operand(a.value), x])
    numbers = b.combine("mul", [hits, _column(torch.arange(1, counts[1] + 1), b.sizes(x), dim)])
    last = b.reduce("amax", numbers, dim + 1, False)
    last = b.add("clamp", [b.add("add", [last], {"scalar": -1.0})], {"low": 0.0})
    source = _source(b, a, x, dim, counts[1])
    picked = b.add("gather", [source, last], {"dim": b.axis(source, dim)})
    return b.combine("where", [written, picked, x])


def _capture_scatter_add(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write x[index[k]] += source[k] along a dimension."""
    x, dim, hits, counts = _hits(b, a, results[0])
    source = _source(b, a, x, dim, counts[1])
    sizes = b.sizes(source)
    wide = b.reshape(source, (*sizes[:dim], 1, *sizes[dim:]))
    added = b.reduce("sum", b.combine("where", [hits, wide, b.operand(0.0)]), dim + 1, False)
    return b.combine("add", [x, added])


_REDUCED = {
    "sum": ("sum", "add", 0.0),
    "mean": ("sum", "add", 0.0),
    "prod": ("prod", "mul", 1.0),
    "amax": ("amax", "maximum", -math.inf),
    "amin": ("amin", "minimum", math.inf),
}
"""How scattered values are reduced, combined with what is there, and the neutral number."""


def _capture_scatter_reduce(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write the sum, product, largest, smallest or mean of the values with the same place."""
    reduce, pair, neutral = _REDUCED[a.reduce]
    x, dim, hits, counts = _hits(b, a, results[0])
    source = _source(b, a, x, dim, counts[1])
    sizes = b.sizes(source)
    wide = b.reshape(source, (*sizes[:dim], 1, *sizes[dim:]))
    y = b.reduce(reduce, b.combine("where", [hits, wide, b.operand(neutral)]), dim + 1, False)
    if a.include_self:
        y = b.combine(pair, [x, y])
    if a.reduce == "mean":
        count = b.reduce("sum", hits, dim + 1, False)
        own = float(a.include_self)
        count = b.add("clamp", [b.add("add", [count], {"scalar": own})], {"low": 1.0})
        y = b.combine("div", [y, count])
    written = b.reduce("amax", hits, dim + 1, False)
    return b.combine("where", [written, y, x])


def _hits(
    b: "Builder", a: "Arguments", sizes: Shape
) -> "tuple[Value, int, Value, tuple[int, int]]":
    """Whether index[k] = j, with sizes (..., places j, indices k, ...)."""
    dim = a.dim % len(sizes)
    own = b.sizes(a.index)
    if sizes[dim] < 0 or own[dim] < 0:
        raise ValueError("it works along the batch")
    if (*own[:dim], *own[dim + 1 :]) != (*sizes[:dim], *sizes[dim + 1 :]):
        raise ValueError(f"its index {own} does not cover {sizes}")
    x = b.as_value(b.expand(a.self, sizes))
    index = b.reshape(b.as_value(b.expand(a.index, own)), (*own[:dim], 1, *own[dim:]))
    places = _column(torch.arange(sizes[dim])[:, None], sizes, dim)
    return x, dim, b.combine("eq", [index, places]), (sizes[dim], own[dim])


def _column(numbers: "Tensor", sizes: Shape, dim: int) -> Any:
    """A constant that varies along one dimension, the others following."""
    return Constant(numbers.reshape(*numbers.shape, *(1,) * (len(sizes) - dim - 1)))


def _source(b: "Builder", a: "Arguments", x: "Value", dim: int, count: int) -> "Value":
    sizes = b.sizes(x)
    if not hasattr(a.src, "dims"):
        return b.as_value(b.expand(a.src, (*sizes[:dim], count, *sizes[dim + 1 :])))
    source: Value = a.src
    for i, size in enumerate((*sizes[:dim], count, *sizes[dim + 1 :])):
        if size > 0 and b.sizes(source)[i] != size:
            source = b.take(source, i, 0, size)
    return source


# ---- constant places


def _capture_index_put(b: "Builder", a: "Arguments", results: Any) -> "Value":
    given = [(dim, index) for dim, index in enumerate(a.indices) if index is not None]
    held = [index for _, index in given if not hasattr(index, "tensor")]
    if not held:
        return put(b, a.self, [(dim, i.tensor) for dim, i in given], a.values, a.accumulate)
    if len(given) == 2 and given[0][0] == 0 and is_batch_index(b, a.self, *given[0]):
        return _put_one_of_each_sample(b, a, given[1], results[0])
    mask = held[0]
    if len(given) > 1 or mask.number not in b.booleans or given[0][0] != 0:
        raise ValueError(
            "it writes to places that depend on the input: use x.scatter(dim, index, values)"
        )
    values = a.values
    if getattr(values, "mask", None) == mask.number:
        values = values.value
    elif len(b.sizes(values)) and math.prod(b.sizes(values)) != 1:
        raise ValueError("it writes several values where a mask is true: use torch.where")
    x = b.as_value(b.expand(a.self, results[0]))
    mask = b.reshape(mask, (*b.sizes(mask), *(1,) * (len(results[0]) - len(b.sizes(mask)))))
    if a.accumulate:
        values = b.combine("add", [x, values])
    return b.combine("where", [mask, values, x])


def _put_one_of_each_sample(
    b: "Builder", a: "Arguments", place: "tuple[int, Any]", sizes: Shape
) -> "Value":
    """Write x[arange(batch), places] = values, one place of every sample."""
    dim, index = place
    if dim != 1 or b.sizes(index) != sizes[:1]:
        raise ValueError("it writes to several places of every sample that depend on the input")
    x, rest = b.as_value(b.expand(a.self, sizes)), sizes[2:]
    index = b.reshape(from_the_end(b, index, sizes[1]), (sizes[0], 1, *(1 for _ in rest)))
    here = b.combine("eq", [index, _column(torch.arange(sizes[1]), sizes, 1)])
    values = b.reshape(b.as_value(b.expand(a.values, (sizes[0], *rest))), (sizes[0], 1, *rest))
    if a.accumulate:
        values = b.combine("add", [x, values])
    return b.combine("where", [here, values, x])


def put(
    b: "Builder", x: Any, given: "Sequence[tuple[int, Tensor]]", values: Any, accumulate: bool
) -> "Value":
    """Write or add values at constant places of neighbouring dimensions.

    Args:
        b: The graph.
        x: What is written to.
        given: Dimensions with their indices, which broadcast each other.
        values: What is written; it broadcasts to the shape of x[indices].
        accumulate: Whether to add.
    """
    indices = [t.nonzero()[:, 0] if t.dtype == torch.bool else t.long() for _, t in given]
    sizes = b.sizes(x)
    dims = [dim % len(sizes) for dim, _ in given]
    if dims != list(range(dims[0], dims[0] + len(dims))):
        raise ValueError("it writes to places of dimensions that are apart")
    first, behind = dims[0], sizes[dims[-1] + 1 :]
    shape = tuple(np.broadcast_shapes(*(t.shape for t in indices)))
    values = b.expand(values, (*sizes[:first], *shape, *behind))
    x = b.as_value(b.expand(x, sizes))
    grid = _grid(indices, len(shape))
    if accumulate and grid:
        counts = [t.numel() for t in indices]
        values = b.reshape(b.as_value(values), (*sizes[:first], *counts, *behind))
        for dim, index in zip(dims, indices):
            values = _added_up(b, values, dim, index.reshape(-1), sizes[dim])
        return b.combine("add", [x, values])
    # The dimensions as one, and one index into it.
    place = torch.zeros(shape, dtype=torch.int64)
    for dim, index in zip(dims, indices):
        place = place * sizes[dim] + index % sizes[dim]
    places = place.reshape(-1)
    plane = math.prod(sizes[dim] for dim in dims)
    flat = b.reshape(x, (*sizes[:first], plane, *behind))
    source = b.reshape(b.as_value(values), (*sizes[:first], len(places), *behind))
    if accumulate:
        y = b.combine("add", [flat, _added_up(b, source, first, places, plane)])
    else:
        read = np.arange(plane)
        read[places.numpy()] = plane + np.arange(len(places))
        both = b.join([flat, source], first, (*sizes[:first], plane + len(places), *behind))
        y = take_places(b, both, first, torch.from_numpy(read))
    return b.reshape(y, sizes)


def _grid(indices: "Sequence[Tensor]", rank: int) -> bool:
    """Whether indices vary along different dimensions, in their order."""
    owners = [[i for i, size in enumerate(t.shape, rank - t.dim()) if size > 1] for t in indices]
    flat = [i for own in owners for i in own]
    return len(indices) == 1 or flat == sorted(set(flat))


def _added_up(b: "Builder", values: "Value", dim: int, index: "Tensor", size: int) -> "Value":
    """Sums of the values with the same index: a product with a matrix of zeros and ones."""
    matrix = torch.zeros(size, len(index))
    matrix[index % size, torch.arange(len(index))] = 1.0
    order = list(range(len(b.sizes(values))))
    order[dim], order[-1] = order[-1], order[dim]
    moved = b.permute(values, order)
    b.axis(moved, -1)
    return b.permute(b.add("linear", [moved], {}, {"weight": Constant(matrix)}), order)


# ---- windows and diagonals


def _capture_unfold(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Windows along a dimension, as a new last dimension."""
    sizes = b.sizes(a.self)
    dim = a.dimension % len(sizes)
    count = results[0][dim]
    inside = torch.arange(a.size)
    if varies(count):
        starts = b.multiplied(b.reshape(count_up(b, count), (count, 1)), a.step)
        index = b.combine("add", [starts, Constant(inside)])
        x = take_same_places(b, a.self, dim, b.reshape(index, (count * a.size,)))
    else:
        places = torch.arange(count)[:, None] * a.step + inside
        x = take_places(b, a.self, dim, places)
    x = b.reshape(x, (*sizes[:dim], count, a.size, *sizes[dim + 1 :]))
    return b.permute(x, [i for i in range(len(sizes) + 1) if i != dim + 1] + [dim + 1])


def _capture_diagonal(b: "Builder", a: "Arguments", results: Any) -> "Value":
    sizes = b.sizes(a.self)
    rows, columns = a.dim1 % len(sizes), a.dim2 % len(sizes)
    order = [i for i in range(len(sizes)) if i not in (rows, columns)]
    x = b.permute(a.self, [*order, rows, columns])
    ahead, width = b.sizes(x)[:-2], sizes[columns]
    b.axis(x, -1), b.axis(x, -2)
    count, start = results[0][-1], max(a.offset, 0) - min(a.offset, 0) * width
    x = b.reshape(x, (*ahead, sizes[rows] * width))
    if not varies((count, width)):
        return take_places(b, x, len(ahead), torch.arange(count) * (width + 1) + start)
    along = b.multiplied(count_up(b, count), width + 1)
    return take_same_places(b, x, len(ahead), b.combine("add", [along, b.operand(start)]))


def _refuse_masked_scatter(b: "Builder", a: "Arguments", results: Any) -> "Value":
    raise ValueError(
        "which elements a sample takes depends on the masks of the samples before it: use "
        "torch.where"
    )


PLACES = {
    "scatter": _capture_scatter,
    "scatter_add": _capture_scatter_add,
    "scatter_reduce": _capture_scatter_reduce,
    "masked_scatter": _refuse_masked_scatter,
    "index_put": _capture_index_put,
    "_unsafe_index_put": _capture_index_put,
    "unfold": _capture_unfold,
    "diagonal": _capture_diagonal,
}
"""The ATen operators that read or write places, by name."""
