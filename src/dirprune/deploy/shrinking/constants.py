r"""Channels whose value is the same for every input, and these values.

A filter that is all zero gives its bias b everywhere. The BatchNorm after it gives

.. math:: \beta + \gamma\,(b - \mathrm{mean}) / \sqrt{\mathrm{var} + \epsilon},

and it gives :math:`\beta` for any input if :math:`\gamma = 0`. Constants are propagated through
activations, pooling, sums, products and concatenations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.module import run_node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.layouts import Layout, compress, varying
from dirprune.deploy.graph.operators.record import Shape

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ConstantInputs:
    """The known constants in a node's inputs.

    Attributes:
        node: The node.
        inputs: For each input, the layout of its constants, NaN where it varies.
        shapes: Of the inputs, the batch first.
        are_constants: Whether each input is a constant of the graph.
        own: The node's tensors by role.
    """

    node: Node
    inputs: list[Layout]
    shapes: Sequence[Shape]
    are_constants: Sequence[bool]
    own: Arrays

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The node's attributes."""
        return self.node.attrs

    @property
    def rank(self) -> int:
        """Dimensions of the result, without the batch."""
        return len(self.node.shape) - 1

    def run(self) -> Layout:
        """Apply an operator on single elements to the first layout."""
        x = torch.from_numpy(np.array(self.inputs[0]))
        return np.asarray(run_node(self.node, [x], {}))


def find_constants(graphs: Sequence[Graph], tensors: Arrays) -> list[Layout]:
    """Follow constants from layer to layer, in float64.

    Args:
        graphs: One graph with unfolded BatchNorm, at some combinations of its sizes.
        tensors: Its tensors.

    Returns:
        For every value the layout of its constants, NaN where it depends on the input or on the
        sizes. For a constant of the graph, an array that broadcasts to its shape.
    """
    found: list[Layout] = [varying(len(graphs[0].shape) - 1)]
    shapes = [graph.shapes for graph in graphs]
    for number in range(len(graphs[0].nodes)):
        held = []
        for graph, own in zip(graphs, shapes):
            node = graph.nodes[number]
            known = ConstantInputs(
                node,
                [found[value] for value in node.inputs],
                [own[value] for value in node.inputs],
                [is_constant(graph, value) for value in node.inputs],
                {role: tensors[name] for role, name in node.tensors.items()},
            )
            with np.errstate(all="ignore"):
                values = OPERATORS[node.op].channels.constants(known)
            held.append(compress(np.where(np.isfinite(values), values, np.nan)))
        found.append(_common(held))
    return found


def _common(held: Sequence[Layout]) -> Layout:
    """The constants that are the same at all sizes."""
    first = held[0]
    for other in held[1:]:
        if other.shape != first.shape:
            return varying(first.ndim)
        first = np.where(other == first, first, np.nan)
    return first if len(held) == 1 else compress(first)


def is_constant(graph: Graph, value: int) -> bool:
    """Whether a value is a constant of the graph."""
    return value > 0 and graph.nodes[value - 1].op == "constant"
