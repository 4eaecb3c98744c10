"""Reads of ``x[mask]``, whose number of elements depends on values."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dirprune.deploy.graph.builder import Builder
from dirprune.deploy.graph.operators.sample_rows import gathered
from dirprune.deploy.graph.program_sizes import SELECTION
from dirprune.deploy.graph.values import Arguments, Selected, Value, plain_dims

_VIEWS = ("view", "reshape", "_unsafe_view")
_END = (1 << 63) - 1
_ENDS = ((1, 0), (1, -1))
"""Dimension and index of the first and the last row."""


def read_selected(b: Builder, name: str, arguments: Arguments, known: Sequence[int | None]) -> Any:
    """Write an operator on ``x[mask]``, as in ``x[mask].view(batch, -1, features)[:, -1]``.

    Args:
        b: The graph.
        name: Name of the operator.
        arguments: Its arguments.
        known: Sizes of the result; None where a size depends on values.

    Raises:
        ValueError: If a graph cannot represent the result.
    """
    held = getattr(arguments, "self", None)
    if not isinstance(held, Selected):
        raise ValueError(SELECTION)
    sizes, mask = b.sizes(held.value), Value(held.mask, plain_dims(2))
    if name in _VIEWS and tuple(known) == (sizes[0], None, *sizes[2:]):
        if held.value.dims[0] == (0,) and b.graph_shape(mask) == (-1, sizes[1]):
            return replace(held, by_sample=True)
    elif held.by_sample and name == "slice":
        if (arguments.start or 0, arguments.end or _END, arguments.step) == (0, _END, 1):
            return held
    elif name == "select" and held.by_sample and (arguments.dim, arguments.index) in _ENDS:
        if arguments.index:  # the count of selected rows is largest from the last one on
            mask = b.add("cumsum", [mask], {"dim": 1})
        place = b.reduce_one("argmax", mask, 1, False)
        return gathered(b, held.value, place, (-1, *sizes[2:]))
    raise ValueError(SELECTION)
