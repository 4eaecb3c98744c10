"""Which sizes of the inputs shall vary, as the user asks for it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dirprune.deploy.graph.example import Example
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.signature import leaf_names
from dirprune.deploy.graph.sizes import SizeRange

DynamicSizes = Mapping[str | int, Mapping[int, Sequence[int]]]
"""Bounds by input and dimension: ``{"x": {2: (64, 512), 3: (64, 512)}}``; a third number is the
step. An input is named as in the call of the network, or by its index."""

_LONGEST = 1024

Place = tuple[int, int]
"""Number of an input tensor, and its dimension."""


def requested_ranges(example: Example, dynamic: DynamicSizes | None) -> dict[Place, SizeRange]:
    """Check what the user asks for.

    Args:
        example: The example inputs.
        dynamic: The bounds.

    Returns:
        The sizes that vary, by their place.

    Raises:
        ValueError: If there is no such input or dimension, or the example is out of the bounds.
    """
    names = leaf_names(example.names, example.arguments)
    found: dict[Place, SizeRange] = {}
    for key, dims in (dynamic or {}).items():
        number = names.index(key) if key in names else key
        if (
            type(number) is not int
            or not 0 <= number < len(names)
            or not isinstance(dims, Mapping)
        ):
            raise ValueError(
                f"dynamic must give bounds by dimension for the inputs {', '.join(names)}, such "
                f"as {{{names[0]!r}: {{1: (64, 512)}}}}, got {key!r}: {dims!r:.80}"
            )
        leaf = example.leaves[number]
        for dim, bounds in dims.items():
            what = f"input {names[number]}, dimension {dim!r}"
            if type(dim) is not int or not 1 <= dim < leaf.dim():
                raise ValueError(
                    f"{what}: the dimensions whose size may vary are 1 to {leaf.dim() - 1}; the "
                    "batch in dimension 0 always does"
                )
            if not isinstance(bounds, Sequence) or len(bounds) not in (2, 3):
                raise ValueError(f"{what}: bounds are (low, high) or (low, high, step), "
                                 f"got {bounds!r:.80}")  # fmt: skip
            own = SizeRange(f"{names[number]}.{dim}", *bounds)
            if leaf.shape[dim] not in own:
                raise ValueError(
                    f"{what}: the size {leaf.shape[dim]} of example_inputs is not within {own}"
                )
            if len(own.sizes) > 1:
                found[number, dim] = own
    return found


def equal_places(example: Example, ranges: Mapping[Place, SizeRange]) -> list[tuple[Place, Place]]:
    """Sizes of two inputs in one dimension that are equal and have the same bounds."""
    first: dict[tuple[int, int, Sequence[int]], Place] = {}
    pairs = []
    for (number, dim), own in ranges.items():
        key = dim, example.leaves[number].shape[dim], own.sizes
        if (place := first.setdefault(key, (number, dim))) != (number, dim):
            pairs.append((place, (number, dim)))
    return pairs


def traced_inputs(
    example: Example, ranges: Mapping[Place, SizeRange], part: float | None = None
) -> list[Tensor]:
    """Inputs for the exporter, which takes sizes of 1 as fixed.

    Args:
        example: The example inputs.
        ranges: The sizes that vary.
        part: Where between their bounds all of these sizes lie; None keeps those of the example.
    """
    shapes = [list(leaf.shape) for leaf in example.leaves]
    for (number, dim), own in ranges.items():
        if part is not None:
            shapes[number][dim] = own.sizes[round(part * (min(len(own.sizes), _LONGEST) - 1))]
        elif shapes[number][dim] == 1:
            shapes[number][dim] = own.sizes[1]
    return [resized(leaf, shape) for leaf, shape in zip(example.leaves, shapes)]


def resized(leaf: Tensor, shape: Sequence[int]) -> Tensor:
    """Another size of an example: its elements, repeated or cut off."""
    for dim, size in enumerate(shape):
        if leaf.shape[dim] != size:
            leaf = leaf.index_select(dim, torch.arange(size, device=leaf.device) % leaf.shape[dim])
    return leaf


def other_sizes(graph: Graph, example: Example) -> Iterator[tuple[Graph, list[Tensor]]]:
    """A graph at its smallest, its largest and two other combinations of sizes, with inputs.

    Sizes that are much larger than those of the example, or 1024, are left out: they take long.
    """
    dynamic = graph.dynamic
    if dynamic is None:
        return
    longest = max(_LONGEST, 2 * max(max(leaf.shape[1:], default=1) for leaf in example.leaves))
    for sizes in dynamic.between((0.0, 1.0, 0.37, 0.71), longest):
        at = dynamic.at(graph, sizes)
        shapes = [at.shape] if at.signature is None else [s.shape for s in at.signature.inputs]
        leaves = [
            resized(leaf, [len(leaf), *shape[1:]]) for leaf, shape in zip(example.leaves, shapes)
        ]
        yield at, leaves


def joint_range(ranges: Sequence[SizeRange], what: str) -> SizeRange:
    """The sizes that several dimensions with the same size can have.

    Raises:
        ValueError: If there are none.
    """
    own = ranges[0]
    for other in ranges[1:]:
        low, high = max(own.low, other.low), min(own.high, other.high)
        step = max(own.step, other.step)
        both = next((s for s in range(low, high + 1) if s in own and s in other), None)
        if both is None or max(own.step, other.step) % min(own.step, other.step):
            raise ValueError(f"{what} have the same size, but their bounds are {own} and {other}")
        own = SizeRange(own.name, both, high, step)
    return own


def narrowed(own: SizeRange, high: Any) -> str | None:
    """The message if the exporter found that large sizes are impossible, otherwise None.

    The exporter's lower bound is ignored, because it treats maps of one pixel as a special case.
    """
    if own.high > high:
        return f"{own.name}: the network works for the sizes up to {high} only, not for {own}"
    return None
