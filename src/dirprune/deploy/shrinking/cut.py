"""Removing channels from a graph."""

from dataclasses import dataclass, replace
from typing import Any

from dirprune.deploy.graph.graph import Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.shrinking.filter_inputs import Bools, filter_inputs
from dirprune.deploy.shrinking.liveness import Liveness, lines
from dirprune.deploy.shrinking.rebuild import Exact, Store, rebuild


@dataclass
class NodeCut:
    """A node whose channels are being cut by the rules of its operator.

    Attributes:
        number: Number of the node.
        network: The graph before.
        held: The constants in its values.
        liveness: The channels that are kept.
        shapes: Shapes of the node's inputs after cutting.
        shape: Shape of its result after cutting.
        input_places: For each input, along each dimension, the kept entries.
        places: The same for the result.
        tensors: Its tensors by role, cut.
        attrs: Its attributes.
        inputs: The values that it reads.
    """

    number: int
    network: Exact
    held: list[Layout]
    liveness: Liveness
    shapes: list[Shape]
    shape: Shape
    input_places: list[list[Bools]]
    places: list[Bools]
    tensors: dict[str, Any]
    attrs: dict[str, Any]
    inputs: tuple[int, ...]

    def drop_dead_inputs(self) -> None:
        """Read only the values that have kept channels."""
        kept, layouts = self.liveness.kept, self.liveness.layouts
        self.inputs = tuple(v for v in self.inputs if kept[layouts[v]].any())

    def fold_constants_into_bias(self) -> None:
        """Add to the bias what the deleted inputs would have added."""
        node, kept = self.network.graph.nodes[self.number], self.liveness.kept
        outs, ins = self.liveness.tensors[self.number]["weight"]
        if outs is None or ins is None or kept[ins].all():
            return
        value = node.inputs[0]
        shape = self.network.graph.shapes[value]
        weight = self.network.tensors[node.tensors["weight"]][kept[outs]]
        shift = filter_inputs(node, shape, weight, self.held[value]).shift(~kept[ins])
        if shift.any():
            self.tensors["bias"] = shift + self.tensors.get("bias", 0.0)


def cut(network: Exact, constants: list[Layout], liveness: Liveness) -> Exact:
    """Remove the channels that are not kept, and fold their constants into the readers' biases.

    Args:
        network: The graph.
        constants: The constants in its values.
        liveness: The channels that are kept.

    Returns:
        The graph with smaller tensors.
    """
    graph = network.graph
    places = [lines(liveness.kept[layout]) for layout in liveness.layouts]
    shapes = [_cut_shape(shape, stays) for shape, stays in zip(graph.shapes, places)]
    store = Store()
    nodes: list[Node | int] = []
    for number, node in enumerate(graph.nodes):
        if not liveness.live[number + 1]:
            nodes.append(node)  # nothing reads it any more
            continue
        tensors = {role: network.tensors[name] for role, name in node.tensors.items()}
        for role, axes in liveness.tensors[number].items():
            for axis, numbers in enumerate(axes):
                if numbers is not None:
                    tensors[role] = tensors[role].compress(liveness.kept[numbers], axis)
        change = NodeCut(
            number, network, constants, liveness, [shapes[v] for v in node.inputs],
            shapes[number + 1], [places[v] for v in node.inputs], places[number + 1],
            tensors, dict(node.attrs), node.inputs,
        )  # fmt: skip
        OPERATORS[node.op].channels.cut(change)
        if node.op == "cat" and len(change.inputs) == 1:
            nodes.append(change.inputs[0])
            continue
        names = {role: store.put(_name(node, role), t) for role, t in change.tensors.items()}
        nodes.append(
            replace(
                node, inputs=change.inputs, shape=change.shape, attrs=change.attrs, tensors=names
            )
        )
    return rebuild(graph, nodes, store)


def _cut_shape(shape: Shape, places: list[Bools]) -> Shape:
    batch = len(shape) - len(places)
    sizes = [int(p.sum()) if len(p) > 1 else size for size, p in zip(shape[batch:], places)]
    return (*shape[:batch], *sizes)


def _name(node: Node, role: str) -> str:
    """Return the name of a tensor; a new bias gets the name that its module would give it."""
    return node.tensors.get(role) or ".".join(filter(None, (node.path, role)))
