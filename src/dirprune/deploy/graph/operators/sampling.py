"""Sampling of maps at places that depend on the input."""

from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term
from dirprune.deploy.graph.values import Value, plain_dims

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments

_NEAREST, _BICUBIC = 1, 2
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2


def _capture_grid_sample(b: "Builder", a: "Arguments", results: Any) -> Any:
    """Write the weighted sum of the pixels around every place, each read by its number.

    The batch may be merged with maps of each sample, as with the heads of deformable attention.
    """
    x, grid = b.as_value(a.input), b.as_value(a.grid)
    group, maps = x.dims[0], b.maps_of_each_sample(x)
    if grid.dims[0] != group or b.maps_of_each_sample(grid) != maps:
        raise ValueError("it samples maps and places whose batch is in different places")
    x, grid = (Value(v.number, plain_dims(len(b.graph_shape(v)))) for v in (x, grid))
    *ahead, channels, height, width = b.graph_shape(x)
    high, wide = b.graph_shape(grid)[-3:-1]
    count = high * wide
    pixels = b.reshape(x, (-1, maps, channels, height * width))
    columns, rows = (
        _coordinate(Term(b, b.reshape(b.take(grid, -1, i, i + 1), (-1, maps, 1, count))), size, a)
        for i, size in ((0, width), (1, height))
    )
    total: Term | None = None
    for row, row_weight in _neighbours(rows, height, a):
        for column, column_weight in _neighbours(columns, width, a):
            number = (row * width + column).held
            number = b.expand(number, (-1, maps, channels, count))
            read = b.add("gather", [pixels, number], {"dim": 3})
            part = Term(b, read) * (row_weight * column_weight)
            total = part if total is None else total + part
    assert total is not None  # noqa: S101 - a pixel has neighbours
    y = b.reshape(total.held, (*ahead, channels, high, wide))
    return Value(y.number, (group, *y.dims[len(group) :]))


def _coordinate(x: Term, size: int, a: "Arguments") -> Term:
    """From -1 ... 1 to pixels."""
    x = (x + 1) * ((size - 1) / 2) if a.align_corners else ((x + 1) * size - 1) / 2
    return x if a.interpolation_mode == _BICUBIC else _padded(x, size, a)


def _padded(x: Term, size: int, a: "Arguments") -> Term:
    """Move pixels into the map as the padding mode says."""
    if a.padding_mode == _REFLECTION:
        x = _reflected(x, 0, size - 1) if a.align_corners else _reflected(x, -0.5, size - 0.5)
    return x if a.padding_mode == _ZEROS else _clamped(x, size)


def _clamped(x: Term, size: int) -> Term:
    attrs = {"low": 0.0, "high": size - 1.0}
    return Term(x.builder, x.builder.add("clamp", [x.held], attrs))


def _reflected(x: Term, low: float, high: float) -> Term:
    """Reflect at both ends; after an odd number of reflections count from the other end."""
    span = high - low
    if span == 0:
        return x * 0
    x = (x - low).apply("abs")
    flips = (x / span).apply("floor")
    rest = x - flips * span
    odd = flips - (flips / 2).apply("floor") * 2
    return odd.where(span - rest, rest) + low


def _neighbours(x: Term, size: int, a: "Arguments") -> "list[tuple[Term, Term]]":
    """The pixels around a coordinate, each inside the map, with its weight; 0 if it is outside."""
    found = []
    for place, weight in _weighted(x, size, a):
        inside = (place >= 0) * (place <= size - 1)
        found.append((_clamped(place, size), inside if weight is None else inside * weight))
    return found


def _weighted(x: Term, size: int, a: "Arguments") -> "list[tuple[Term, Term | None]]":
    if a.interpolation_mode == _NEAREST:
        return [(x.apply("round"), None)]
    low = x.apply("floor")
    beyond = x - low
    if a.interpolation_mode != _BICUBIC:
        return [(low, 1 - beyond), (low + 1, beyond)]
    weights = (_far(beyond + 1), _near(beyond), _near(1 - beyond), _far(2 - beyond))
    return [(_padded(low + i, size, a), weight) for i, weight in zip(range(-1, 3), weights)]


def _near(x: Term) -> Term:
    """Keys' cubic kernel with slope -3/4 at 1, at a distance up to 1."""
    return (1.25 * x - 2.25) * x * x + 1


def _far(x: Term) -> Term:
    """The same from 1 to 2, where it is -3/4 (x - 1) (x - 2)^2."""
    return -0.75 * (x - 1) * (x - 2) * (x - 2)


SAMPLED = {"grid_sampler": _capture_grid_sample, "grid_sampler_2d": _capture_grid_sample}
"""The ATen operators that sample maps, by name."""
