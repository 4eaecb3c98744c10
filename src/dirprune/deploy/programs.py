"""The programs of a network: one, or one for every combination of sizes in use."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from dirprune.deploy.file.encode import encode
from dirprune.deploy.graph.fold import fold
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.signature import Signature

_MOST_PROGRAMS = 8
"""Programs that are kept, the ones used last."""

Sizes = tuple[int, ...]


class Prepared(NamedTuple):
    """A network that is ready to run at some sizes.

    Attributes:
        program: Of the extension.
        signature: With these sizes.
        sizes: Those that vary.
    """

    program: Any
    signature: Signature | None
    sizes: Sizes


class Programs:
    """Makes programs of a graph, which share its weights, and keeps those used last.

    Args:
        extension: The C++ extension.
        graph: The network.
        limit: Bound on the memory of each program.

    Raises:
        ValueError: If the network needs more memory.
    """

    def __init__(self, extension: ModuleType, graph: Graph, limit: int) -> None:
        self._extension, self._limit = extension, limit
        self.dynamic = graph.dynamic
        # The weights are needed again only for other sizes.
        self._graph = None if graph.dynamic is None else graph
        self.first = self._made(graph if graph.dynamic is None else _at_first(graph), (), None)
        self._recent: dict[Sizes, Prepared] = {}

    @property
    def output_shape(self) -> Shape:
        """Shape of one output, without the batch; -1 for a size that varies."""
        shape = tuple(self.first.program.output_shape)
        if self._graph is None or self.dynamic is None:
            return shape
        low, high = (
            self.dynamic.at(self._graph, [r.sizes[end] for r in self.dynamic.ranges])
            for end in (0, -1)
        )
        pairs = zip(low.shapes[low.output][1:], high.shapes[high.output][1:], strict=True)
        return tuple(a if a == b else -1 for a, b in pairs)

    @property
    def prepared(self) -> list[Prepared]:
        """The programs so far."""
        return [*self._recent.values()] if self._graph is not None else [self.first]

    def at(self, shapes: Sequence[Shape]) -> Prepared:
        """The program for input tensors of these shapes; ``shapes`` matters if sizes vary.

        Raises:
            ValueError: If a size is out of its bounds, or needs more memory.
        """
        if self._graph is None or self.dynamic is None:
            return self.first
        sizes = self.dynamic.sizes(shapes)
        # No lock: another thread may make the same program, and a fork may happen at any time.
        found = self._recent.pop(sizes, None) or self._made(
            self.dynamic.at(self._graph, sizes), sizes, self.first.program
        )
        self._recent[sizes] = found
        for oldest in list(self._recent)[:-_MOST_PROGRAMS]:
            self._recent.pop(oldest, None)
        return found

    def _made(self, graph: Graph, sizes: Sizes, like: Any) -> Prepared:
        folded = fold(graph)
        # Not ascontiguousarray, which gives a single number a dimension.
        arrays = [np.asarray(array, order="C") for array in folded.tensors.values()]
        program = self._extension.Program(encode(folded), arrays, self._limit, like)
        return Prepared(program, graph.signature, sizes)


def _at_first(graph: Graph) -> Graph:
    """The graph at the sizes that it states."""
    return Graph(graph.shape, graph.nodes, graph.output, graph.tensors, graph.signature)
