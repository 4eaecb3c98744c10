"""The smallest graph with the same output: cut until nothing more can be cut."""

from typing import NamedTuple

from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.shrinking.constant_folding import fold_constants
from dirprune.deploy.shrinking.constants import find_constants
from dirprune.deploy.shrinking.cut import cut
from dirprune.deploy.shrinking.liveness import Liveness, find_liveness
from dirprune.deploy.shrinking.rebuild import Exact, rebuild
from dirprune.deploy.shrinking.variants import variants


class Minimal(NamedTuple):
    """A graph after cutting.

    Attributes:
        network: The smaller graph.
        liveness: The reasons why its channels are kept.
        constants: The constants in its values.
    """

    network: Exact
    liveness: Liveness
    constants: list[Layout]


def minimize(graph: Graph) -> Minimal:
    """Delete every channel that the output does not depend on.

    Args:
        graph: With unfolded BatchNorm and finite tensors.

    Returns:
        A graph with the same output in evaluation mode, up to rounding.
    """
    network = rebuild(graph, graph.nodes, graph.tensors)
    while True:
        graphs = variants(network.graph)
        constants = find_constants(graphs, network.tensors)
        if (folded := fold_constants(network, constants)) is not network:
            network = folded
            continue
        liveness = find_liveness(graphs, network.tensors, constants)
        used = [liveness.kept[layout].all() for layout in liveness.layouts]
        if all(used) and all(liveness.live[1:]):
            return Minimal(network, liveness, constants)
        network = cut(network, constants, liveness)
