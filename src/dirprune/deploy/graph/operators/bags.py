"""Embedding bags: the sum, mean or largest of the rows that a sample names."""

import math
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value

_SUM, _MEAN, _MAX = 0, 1, 2


def _capture_bags(b: "Builder", a: "Arguments", results: Any) -> "list[Value | None]":
    """Write an embedding and a reduction, for as many rows in the bag of every sample."""
    count = -b.sizes(a.indices)[0]
    step = b.batch_multiples.get(getattr(a.offsets, "number", -1))
    if step != count or a.include_last_offset:
        raise ValueError("its bags have offsets: give the indices as a matrix, one row per sample")
    ids = b.reshape(a.indices, (-1, count))
    dims = ((0,), (1,), (2,))
    rows = Term(b, b.add("embedding", [ids], {}, {"weight": a.weight}, dims=dims))
    used: Term | None = None
    if a.padding_idx >= 0:
        used = Term(b, b.reshape(ids, (-1, count, 1))).binary("ne", float(a.padding_idx))
    if a.per_sample_weights is not None:
        rows = rows * Term(b, b.reshape(b.as_value(a.per_sample_weights), (-1, count, 1)))
    if a.mode == _MAX:
        held = rows if used is None else used.where(rows, -math.inf)
        y = Term(b, b.reduce("amax", held.held, 1, False))
        y = y if used is None else (y > -math.inf).where(y, 0.0)
    else:
        held = rows if used is None else used.where(rows, 0.0)
        y = Term(b, b.reduce("sum", held.held, 1, False))
    if a.mode == _MEAN and used is not None:
        y = y / Term(b, b.reduce("sum", used.held, 1, False)).binary("maximum", 1.0)
    elif a.mode == _MEAN:
        y = y / count
    return [y.held, None, None, None]


BAGS = dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _capture_bags)
"""The ATen operators of embedding bags, by name."""
