"""Rows of every sample, by an index that depends on the input."""

from math import prod
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.values import Value, plain_dims

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Constant

DEPENDS = "it selects places that depend on the input"


def is_batch_index(b: "Builder", x: Any, dim: int, index: Any) -> bool:
    """Whether x[..., arange(batch), ...] takes every sample from where it is."""
    return b.is_batch_index(index) and b.sizes(x)[dim] in b.sizes(index)


def from_the_end(b: "Builder", index: "Value", size: Any) -> "Value":
    """Places that count from the end where they are negative, as -1 for the last one."""
    return b.combine("where", [b.combine("lt", [index, b.operand(0)]),
                               b.combine("add", [index, b.operand(size)]), index])  # fmt: skip


def gathered(b: "Builder", x: "Value", index: "Value", sizes: Shape) -> "Value":
    """Rows of every sample, of sizes (batch, rows, ...), by an index that depends on the input."""
    after, count = b.sizes(x)[2:], prod(b.sizes(index)[1:])
    index = b.reshape(index, (-1, count, *(1 for _ in after)))
    index = b.expand(index, (-1, count, *after))
    return b.reshape(b.add("gather", [x, index], {"dim": b.axis(x, 1)}), sizes)


def split_rows(b: "Builder", x: Any, dim: int, index: Any) -> "tuple[Value, Value] | None":
    """The rows of each sample, and places in them, if an index numbers the rows of all samples.

    An example is ``x.view(batch * n, -1)[places + n * torch.arange(batch)[:, None]]``.
    """
    sizes, number = b.sizes(x), getattr(index, "number", -1)
    if number not in b.flat_places or dim % len(sizes) or index.dims[0][:1] != (0,):
        return None
    place, rows = b.flat_places[number]
    if sizes[0] != -rows:
        return None
    shape = b.graph_shape(index)
    places = b.reshape(Value(place.number, plain_dims(len(shape))), (-1, prod(shape[1:])))
    return b.reshape(x, (-1, rows, *sizes[1:])), places


def _rows_of_a_table(b: "Builder", x: "Constant", dim: int, index: "Value") -> "Value":
    """Rows along a dimension of a constant, by an index that depends on the input."""
    first = x.tensor.movedim(dim, 0)
    table = x if first.dim() == 2 and dim == 0 else b.constant_of(first.reshape(len(first), -1))
    dims = (*index.dims, (len(b.graph_shape(index)),))
    y = b.add("embedding", [index], {}, {"weight": table}, dims=dims)
    count = len(index.dims)
    y = b.reshape(y, (*b.sizes(index), *first.shape[1:]))
    places = list(range(count, count + first.dim() - 1))
    return b.permute(y, [*places[:dim], *range(count), *places[dim:]])


def rows_of_all_samples(b: "Builder", x: Any, dim: int, index: Any, sizes: Shape) -> "Value":
    """Rows of each sample, by an index that numbers the rows of all samples; rows of a table."""
    if hasattr(x, "tensor") and x.tensor.dim() and index.number not in b.booleans:
        return b.reshape(_rows_of_a_table(b, x, dim % x.tensor.dim(), index), sizes)
    found = split_rows(b, x, dim, index)
    if found is None:
        raise ValueError(DEPENDS)
    return gathered(b, *found, sizes)
