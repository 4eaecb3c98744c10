"""Laws of shrinking, on networks drawn at random."""

import numpy as np
import torch
from hypothesis import given, settings

from deploy.drawn_graphs import graphs
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.shrinking.minimal import minimize
from dirprune.deploy.shrinking.network import difference
from dirprune.deploy.shrinking.report import layer_size


def multiplications(graph: Graph) -> int:
    layers = [node for node in graph.nodes if node.op in ("conv2d", "linear")]
    return sum(layer_size(node, graph).macs for node in layers)


@settings(max_examples=150)
@given(graphs())
def test_the_outputs_stay_and_shrinking_again_changes_nothing(graph: Graph) -> None:
    result = minimize(graph)
    after = result.network.graph
    assert difference(graph, result.network) <= 1e-9
    assert multiplications(after) <= multiplications(graph)
    x = torch.linspace(-1, 1, 3 * int(np.prod(graph.shape[1:]))).reshape(3, *graph.shape[1:])
    with torch.no_grad():
        expected, found = GraphNet(graph)(x), GraphNet(after)(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    again = minimize(after).network.graph
    assert again.nodes == after.nodes
    for name, tensor in after.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
