"""Shrinking of small hand-made graphs, and what is left of them."""

from collections.abc import Mapping

from deploy.drawn_graphs import Sketch
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.shrinking.minimal import minimize
from dirprune.deploy.shrinking.network import difference
from dirprune.deploy.shrinking.report import ShrinkReport, make_report


def shrunk(sketch: Sketch) -> tuple[Graph, ShrinkReport]:
    """The smaller graph, whose outputs are those of the larger one."""
    before = sketch.graph()
    network, liveness, constants = minimize(before)
    error = difference(before, network)
    assert error <= 1e-12
    return network.graph, make_report(before, network.graph, liveness, constants, error)


def widths(sketch: Sketch) -> list[int]:
    """Channels that every layer writes afterwards, 0 where it is gone."""
    _, report = shrunk(sketch)
    return [layer.after.outputs for layer in report.layers]


def idle(sketch: Sketch) -> Mapping[str, int]:
    return shrunk(sketch)[1].idle


def only(graph: Graph, op: str) -> Node:
    [node] = [node for node in graph.nodes if node.op == op]
    return node


# --- what one filter is
