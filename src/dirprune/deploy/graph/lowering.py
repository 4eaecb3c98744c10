"""Rewriting nodes without an operator in the engine with operators that it has."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import Attribute, Shape
from dirprune.deploy.graph.shapes import infer_shape


class Lowering:
    """Rewrites a graph with the engine's operators.

    Args:
        graph: As captured.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[Node] = []
        self._tensors = dict(graph.tensors)
        self._path = ""

    def shape(self, value: int) -> Shape:
        """The shape of a value."""
        return self._nodes[value - 1].shape if value else self._graph.shape

    def tensor(self, node: Node, role: str) -> NDArray[np.float32]:
        """A node's tensor."""
        return self._graph.tensors[node.tensors[role]]

    def add(
        self,
        op: str,
        inputs: Sequence[int],
        attrs: Mapping[str, Attribute],
        tensors: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> int:
        """Write a node and return the number of its value."""
        names = {}
        for role, array in (tensors or {}).items():
            names[role] = f"lowered.{len(self._nodes)}.{role}"
            self._tensors[names[role]] = array
        sizes = {role: array.shape for role, array in (tensors or {}).items()}
        shape = infer_shape(op, [self.shape(value) for value in inputs], sizes, attrs)
        self._nodes.append(Node(op, tuple(inputs), shape, attrs, names, self._path))
        return len(self._nodes)

    def graph(self) -> Graph:
        """Write all nodes."""
        numbers = {0: 0}
        for value, node in enumerate(self._graph.nodes, 1):
            node = replace(node, inputs=tuple(numbers[v] for v in node.inputs))
            self._path = node.path
            lower = OPERATORS[node.op].lower
            if lower is None:
                self._nodes.append(node)
                numbers[value] = len(self._nodes)
            else:
                numbers[value] = lower(self, node)
        output = numbers[self._graph.output]
        return Graph(self._graph.shape, tuple(self._nodes), output, self._tensors)


def lowered(graph: Graph) -> Graph:
    """Rewrite a graph with only the engine's operators.

    Args:
        graph: A captured graph.

    Returns:
        A graph of the same function; the same object if it has no other operators.
    """
    if all(OPERATORS[node.op].lower is None for node in graph.nodes):
        return graph
    return Lowering(graph).graph()
