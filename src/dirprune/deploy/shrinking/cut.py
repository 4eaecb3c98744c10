"""Removing channels from a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dirprune.deploy.graph.graph import Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.sizes import Expression
from dirprune.deploy.shrinking.filter_inputs import Bools, filter_inputs
from dirprune.deploy.shrinking.liveness import Liveness, lines
from dirprune.deploy.shrinking.rebuild import Exact, Store, rebuild
from dirprune.deploy.shrinking.variants import variants


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
    graph, graphs = network.graph, variants(network.graph)
    places = [lines(liveness.kept[layout]) for layout in liveness.layouts]
    shapes = [
        [_cut_shape(shape, stays) for shape, stays in zip(own.shapes, places)] for own in graphs
    ]
    store = Store()
    nodes: list[Node | int] = []
    attrs: dict[int, Mapping[str, Expression]] = {}

    def change_at(at: int, number: int) -> NodeCut:
        node = graphs[at].nodes[number]
        change = NodeCut(
            number, network, constants, liveness, [shapes[at][v] for v in node.inputs],
            shapes[at][number + 1], [places[v] for v in node.inputs], places[number + 1],
            _cut_tensors(network, liveness, number), dict(node.attrs), node.inputs,
        )  # fmt: skip
        OPERATORS[node.op].channels.cut(change)
        return change

    for number, node in enumerate(graph.nodes):
        if not liveness.live[number + 1]:
            nodes.append(node)  # nothing reads it any more
            continue
        change = change_at(0, number)
        if graph.dynamic is not None and (varying := graph.dynamic.attrs.get(number)):
            before = [own.nodes[number].attrs for own in graphs]
            after = [change_at(at, number).attrs for at in range(len(graphs))]
            attrs[number] = _cut_expressions(varying, before, after)
        if node.op == "cat" and len(change.inputs) == 1:
            nodes.append(change.inputs[0])
            continue
        names = {role: store.put(_name(node, role), t) for role, t in change.tensors.items()}
        nodes.append(
            replace(
                node, inputs=change.inputs, shape=change.shape, attrs=change.attrs, tensors=names
            )
        )
    return rebuild(graph, nodes, store, attrs)


def _cut_tensors(network: Exact, liveness: Liveness, number: int) -> dict[str, Any]:
    """The tensors of a node by role, without the channels that are removed."""
    named = network.graph.nodes[number].tensors
    tensors = {role: network.tensors[name] for role, name in named.items()}
    for role, axes in liveness.tensors[number].items():
        for axis, numbers in enumerate(axes):
            if numbers is not None:
                tensors[role] = tensors[role].compress(liveness.kept[numbers], axis)
    return tensors


def _cut_expressions(
    varying: Mapping[str, Expression],
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> dict[str, Expression]:
    """The attributes of a node that follow from sizes, after it was cut at some of them.

    A dimension whose size varies is never cut: an entry is unchanged, or is a number.
    """
    return {
        key: _cut_expression(expression, [a[key] for a in before], [a[key] for a in after])
        for key, expression in varying.items()
    }


def _cut_expression(expression: Expression, before: list[Any], after: list[Any]) -> Expression:
    if before == after:
        return expression
    if all(new == after[0] for new in after):
        return list(after[0]) if isinstance(after[0], tuple) else after[0]
    entries = zip(expression, zip(*before), zip(*after), strict=True)
    return [_cut_expression(own, list(old), list(new)) for own, old, new in entries]


def _cut_shape(shape: Shape, places: list[Bools]) -> Shape:
    batch = len(shape) - len(places)
    sizes = [int(p.sum()) if len(p) > 1 else size for size, p in zip(shape[batch:], places)]
    return (*shape[:batch], *sizes)


def _name(node: Node, role: str) -> str:
    """Return the name of a tensor; a new bias gets the name that its module would give it."""
    return node.tensors.get(role) or ".".join(filter(None, (node.path, role)))
