"""Sampling of maps at places that depend on the input."""

from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments

_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2


def _capture_grid_sample(b: "Builder", a: "Arguments", results: Any) -> Any:
    """Write the weighted sum of the pixels around every place, each read by its number.

    The batch may be merged with maps of each sample, as with the heads of deformable attention.
    """
    from dirprune.deploy.graph.values import Value, plain_dims

    if a.interpolation_mode not in (_BILINEAR, _NEAREST):
        raise ValueError("it samples with bicubic interpolation")
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
    for row, row_weight in _neighbours(rows, height, a.interpolation_mode):
        for column, column_weight in _neighbours(columns, width, a.interpolation_mode):
            number = (row * width + column).held
            number = b.expand(number, (-1, maps, channels, count))
            read = b.add("gather", [pixels, number], {"dim": 3})
            part = Term(b, read) * (row_weight * column_weight)
            total = part if total is None else total + part
    assert total is not None  # noqa: S101 - a pixel has neighbours
    y = b.reshape(total.held, (*ahead, channels, high, wide))
    return Value(y.number, (group, *y.dims[len(group) :]))


def _coordinate(x: Term, size: int, a: "Arguments") -> Term:
    """From -1 ... 1 to pixels, moved into the map as the padding mode says."""
    x = (x + 1) * ((size - 1) / 2) if a.align_corners else ((x + 1) * size - 1) / 2
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


def _neighbours(x: Term, size: int, mode: int) -> "list[tuple[Term, Term]]":
    """The pixels around a coordinate, each inside the map, with its weight; 0 if it is outside."""
    if mode == _NEAREST:
        nearest: list[tuple[Term, Term | None]] = [(x.apply("round"), None)]
    else:
        low = x.apply("floor")
        nearest = [(low, 1 - (x - low)), (low + 1, x - low)]
    found = []
    for place, weight in nearest:
        inside = (place >= 0) * (place <= size - 1)
        found.append((_clamped(place, size), inside if weight is None else inside * weight))
    return found


SAMPLED = {"grid_sampler": _capture_grid_sample, "grid_sampler_2d": _capture_grid_sample}
"""The ATen operators that sample maps, by name."""
