"""Constant folding: a constant branch of a sum or product is replaced by the constant."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.shrinking.rebuild import Exact, Store, rebuild
from dirprune.deploy.shrinking.variants import variants

_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}


def fold_constants(network: Exact, constants: list[Layout]) -> Exact:
    """Replace values that are constant in every channel; remove sums with 0 and products with 1.

    The channels of a residual block whose last filters are all zero cannot be cut, because they
    are added to channels that are kept. But the whole block can be replaced by a constant.

    Args:
        network: The graph.
        constants: The constants in its values.

    Returns:
        The graph without such branches; the same object if there are none.
    """
    graph = network.graph
    graphs = variants(graph)
    store = Store(network.tensors)
    nodes: list[Node | int] = list(graph.nodes)
    for number, node in enumerate(graph.nodes):
        if node.op not in _NEUTRAL or len(node.inputs) < 2 or _known(constants[number + 1]):
            continue
        for other, value in (node.inputs, node.inputs[::-1]):
            if not _known(constants[value]) or not _same_shape(graphs, other, number + 1):
                continue
            neutral = (constants[value] == _NEUTRAL[node.op]).all()
            if neutral and (node.op in ("add", "mul") or value == node.inputs[1]):
                nodes[number] = other
            elif graph.nodes[value - 1].op != "constant" and _may_be_constant(graphs, value):
                nodes[value - 1] = _constant(constants[value], graph.nodes[value - 1], store)
    if nodes == list(graph.nodes):
        return network
    return rebuild(graph, nodes, store)


def _known(held: Layout) -> bool:
    return not np.isnan(held).any()


def _same_shape(graphs: Sequence[Graph], one: int, other: int) -> bool:
    """Whether two values have the same shape, at all sizes."""
    return all(graph.shapes[one] == graph.shapes[other] for graph in graphs)


def _may_be_constant(graphs: Sequence[Graph], value: int) -> bool:
    """Only sums and products with another value of the result's shape can read a constant."""
    graph = graphs[0]
    for reader in graph.readers[value]:
        node = graph.nodes[reader]
        others = [v for v in node.inputs if v != value]
        if node.op not in _NEUTRAL or not others:
            return False
        if not _same_shape(graphs, others[0], reader + 1):
            return False
    return True


def _constant(held: Layout, node: Node, store: Store) -> Node:
    count = 0
    while (name := f"constant.{count}") in store:
        count += 1
    value: Any = np.array(held, np.float64)
    store[name] = value
    return Node("constant", (), value.shape, tensors={"value": name}, path=node.path)
