"""Rebuilding a graph from changed nodes, without unused nodes and tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.sizes import Expression
from dirprune.deploy.shrinking.constants import Arrays


class Exact(NamedTuple):
    """A graph, and its tensors before they were rounded.

    Attributes:
        graph: With float32 tensors.
        tensors: The same in float64 where rounding lost something.
    """

    graph: Graph
    tensors: Arrays


def rebuild(
    graph: Graph,
    nodes: Sequence[Node | int],
    tensors: Arrays,
    attrs: Mapping[int, Mapping[str, Expression]] | None = None,
) -> Exact:
    """Make a graph of changed nodes.

    Args:
        graph: The original graph.
        nodes: For each of its nodes, the new node with the old numbers of its inputs, or the
            number of the value that replaces it.
        tensors: All tensors that the nodes name; others are dropped.
        attrs: For each of its nodes, the attributes that follow from sizes; by default those of
            the original graph.

    Returns:
        The graph with the nodes on which the output depends.
    """
    replacement = list(range(len(nodes) + 1))
    for number, node in enumerate(nodes):
        if isinstance(node, int):
            replacement[number + 1] = replacement[node]
    output = replacement[graph.output]
    needed = {output}
    for value in range(output, 0, -1):
        node = nodes[value - 1]
        if value in needed and isinstance(node, Node):
            needed.update(replacement[source] for source in node.inputs)
    numbers = {0: 0}
    kept: list[Node] = []
    for value in sorted(needed - {0}):
        node = nodes[value - 1]
        if isinstance(node, Node):
            inputs = tuple(numbers[replacement[source]] for source in node.inputs)
            kept.append(replace(node, inputs=inputs))
            numbers[value] = len(kept)
    names = dict.fromkeys(name for node in kept for name in node.tensors.values())
    exact = {name: tensors[name] for name in names}
    rounded = {name: np.asarray(tensor, np.float32) for name, tensor in exact.items()}
    dynamic = graph.dynamic
    if dynamic is not None:
        given = dynamic.attrs if attrs is None else attrs
        own = {
            numbers[number + 1] - 1: {k: e for k, e in found.items() if k in node.attrs}
            for number, found in given.items()
            if number + 1 in numbers and isinstance(node := nodes[number], Node)
        }
        dynamic = replace(dynamic, attrs={number: e for number, e in own.items() if e})
    smaller = Graph(graph.shape, tuple(kept), numbers[output], rounded, graph.signature, dynamic)
    return Exact(smaller, exact)


class Store(dict[str, NDArray[Any]]):
    """Tensors by name; different tensors have different names."""

    def put(self, name: str, tensor: NDArray[Any]) -> str:
        """Add a tensor.

        Args:
            name: What it should be called.
            tensor: Any.

        Returns:
            What it is called: another name if this one is taken by other values.
        """
        free, count = name, 1
        while free in self and not np.array_equal(self[free], tensor):
            count += 1
            free = f"{name}_{count}"
        self[free] = tensor
        return free
