"""The smallest graph with the same output: cutting until nothing is left to cut."""

from typing import NamedTuple

from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.shrinking.constant_folding import settle
from dirprune.deploy.shrinking.constants import find_constants
from dirprune.deploy.shrinking.cut import cut
from dirprune.deploy.shrinking.layout import Layout
from dirprune.deploy.shrinking.liveness import Demand, find_demand
from dirprune.deploy.shrinking.rebuild import Exact, rebuild


class Smallest(NamedTuple):
    """What is left of a graph.

    Attributes:
        network: The smaller graph.
        demand: Why the rest stays.
        constants: What its values hold.
    """

    network: Exact
    demand: Demand
    constants: list[Layout]


def smallest(graph: Graph) -> Smallest:
    """Delete every channel that the output does not depend on.

    Args:
        graph: With unfolded BatchNorm and finite tensors.

    Returns:
        A graph with the same output in evaluation mode, but for rounding.
    """
    network = rebuild(graph, graph.nodes, graph.tensors)
    while True:
        constants = find_constants(network.graph, network.tensors)
        if (settled := settle(network, constants)) is not network:
            network = settled
            continue
        demand = find_demand(network.graph, network.tensors, constants)
        used = [demand.kept[layout].all() for layout in demand.layouts]
        if all(used) and all(demand.live[1:]):
            return Smallest(network, demand, constants)
        network = cut(network, constants, demand)
