"""The graph without the channels that can go."""

from dataclasses import replace
from typing import Any

from dirprune.deploy.graph.graph import Node
from dirprune.deploy.graph.operators import Shape
from dirprune.deploy.shrinking.layout import Layout
from dirprune.deploy.shrinking.liveness import Demand, lines
from dirprune.deploy.shrinking.reading import Bools, reading
from dirprune.deploy.shrinking.rebuild import Exact, Store, rebuild


def cut(network: Exact, constants: list[Layout], demand: Demand) -> Exact:
    """Delete what does not stay, and fold the constants among it into the readers' biases.

    Args:
        network: The graph.
        constants: What its values hold.
        demand: What stays of them.

    Returns:
        The graph with smaller tensors.
    """
    graph = network.graph
    places = [lines(demand.kept[layout]) for layout in demand.layouts]
    shapes = [_cut_shape(shape, stays) for shape, stays in zip(graph.shapes, places)]
    store = Store()
    nodes: list[Node | int] = []
    for number, node in enumerate(graph.nodes):
        if not demand.live[number + 1]:
            nodes.append(node)  # nothing reads it any more
            continue
        tensors = {role: network.tensors[name] for role, name in node.tensors.items()}
        for role, axes in demand.tensors[number].items():
            for axis, numbers in enumerate(axes):
                if numbers is not None:
                    tensors[role] = tensors[role].compress(demand.kept[numbers], axis)
        attrs: dict[str, Any] = dict(node.attrs)
        inputs = node.inputs
        match node.op:
            case "conv2d" | "linear":
                if attrs.get("groups", 1) > 1:
                    attrs["groups"] = shapes[inputs[0]][1] // tensors["weight"].shape[1]
                else:
                    _fold(number, network, constants, demand, tensors)
            case "constant":
                for axis, stays in enumerate(places[number + 1]):
                    if len(stays) > 1:
                        tensors["value"] = tensors["value"].compress(stays, axis)
            case "reshape":
                attrs["size"] = shapes[number + 1]
            case "slice":
                along = places[inputs[0]][attrs["dim"] - 1]
                if len(along) > 1:
                    attrs["start"] = int(along[: attrs["start"]].sum())
                    attrs["end"] = int(along[: attrs["end"]].sum())
            case "cat":
                inputs = tuple(v for v in inputs if demand.kept[demand.layouts[v]].any())
                if len(inputs) == 1:
                    nodes.append(inputs[0])
                    continue
        names = {role: store.put(_name(node, role), t) for role, t in tensors.items()}
        nodes.append(
            replace(node, inputs=inputs, shape=shapes[number + 1], attrs=attrs, tensors=names)
        )
    return rebuild(graph, nodes, store)


def _cut_shape(shape: Shape, places: list[Bools]) -> Shape:
    batch = len(shape) - len(places)
    sizes = [int(p.sum()) if len(p) > 1 else size for size, p in zip(shape[batch:], places)]
    return (*shape[:batch], *sizes)


def _fold(
    number: int,
    network: Exact,
    constants: list[Layout],
    demand: Demand,
    tensors: dict[str, Any],
) -> None:
    """Add to the bias what the deleted inputs would have added."""
    node = network.graph.nodes[number]
    outs, ins = demand.tensors[number]["weight"]
    if outs is None or ins is None or demand.kept[ins].all():
        return
    value = node.inputs[0]
    shape = network.graph.shapes[value]
    weight = network.tensors[node.tensors["weight"]][demand.kept[outs]]
    shift = reading(node, shape, weight, constants[value]).shift(~demand.kept[ins])
    if shift.any():
        tensors["bias"] = shift + tensors.get("bias", 0.0)


def _name(node: Node, role: str) -> str:
    """Name a tensor as before, or a bias that was not there as its module would."""
    return node.tensors.get(role) or ".".join(filter(None, (node.path, role)))
