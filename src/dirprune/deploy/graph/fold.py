"""Lowering a graph for the engine: fewer, fused nodes with the same function in evaluation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.lowering import lowered
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import ACTIVATIONS, Attribute

Tensors = dict[str, NDArray[np.floating]]
Scales = dict[str, tuple[str, NDArray[np.floating]]]
"""For each folded weight, the name of the original and the scale of its output channels."""


def fold(graph: Graph) -> Graph:
    r"""Lower a graph.

    Unused nodes, dropout and reshapes without effect are removed. With
    :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}`, a BatchNorm

    .. math:: s\,(W x + b - m) + \beta = (s W)\,x + s\,(b - m) + \beta

    is folded into the preceding convolution or linear layer if nothing else reads its result;
    otherwise it becomes ``affine``. Then an addition of two values of the same shape, and an
    activation, are fused into the convolution, linear or affine node whose result only they read.
    New tensors are computed in float64 and rounded once; zeros stay zeros.

    Args:
        graph: A captured graph; a lowered graph is not changed.

    Returns:
        The lowered graph, with the tensors that it reads and without a signature.

    Example:
        >>> from torch import nn, ones
        >>> from dirprune.deploy import capture
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        >>> [node.op for node in fold(capture(net, ones(2, 3, 8, 8))).nodes]
        ['conv2d']
    """
    graph = lowered(graph)
    nodes, output = _without_identities(graph)
    tensors: Tensors = dict(graph.tensors)
    scales: Scales = {}
    readers = _count_readers(nodes, output)
    for value in sorted(nodes):
        node = nodes[value]
        if node.op == "batch_norm":
            node = nodes[value] = _affine(node, value, tensors)
            before = nodes.get(node.inputs[0])
            if before is not None and readers[node.inputs[0]] == 1 and _takes_scale(before):
                del nodes[node.inputs[0]]
                nodes[value] = _scaled(before, node, value, tensors, scales)
        elif node.op == "add" and len(node.inputs) == 2:
            _add_into(nodes, value, readers)
        elif (activation := _activation(node)) is not None:
            before = nodes.get(node.inputs[0])
            if before is not None and readers[node.inputs[0]] == 1 and _takes_activation(before):
                del nodes[node.inputs[0]]
                nodes[value] = replace(before, attrs={**before.attrs, **activation})
    return _numbered(graph, nodes, output, tensors, scales)


def _without_identities(graph: Graph) -> tuple[dict[int, Node], int]:
    """The nodes that affect the output, by the numbers of their values."""
    same: dict[int, int] = {0: 0}
    nodes: dict[int, Node] = {}
    for value, node in enumerate(graph.nodes, 1):
        inputs = tuple(same[v] for v in node.inputs)
        unchanged = node.op == "reshape" and node.shape == graph.shapes[inputs[0]]
        same[value] = inputs[0] if node.op == "dropout" or unchanged else value
        nodes[value] = replace(node, inputs=inputs)
    output = same[graph.output]
    needed = {output}
    for value in sorted(nodes, reverse=True):
        if value in needed:
            needed.update(nodes[value].inputs)
    return {value: node for value, node in nodes.items() if value in needed}, output


def _count_readers(nodes: Mapping[int, Node], output: int) -> dict[int, int]:
    counts = dict.fromkeys([0, *nodes], 0)
    counts[output] = 1
    for node in nodes.values():
        for value in node.inputs:
            counts[value] += 1
    return counts


def _affine(node: Node, value: int, tensors: Tensors) -> Node:
    """A BatchNorm as scale and shift, in float64."""
    t = {role: tensors[name].astype(np.float64) for role, name in node.tensors.items()}
    with np.errstate(all="ignore"):  # a variance below 0 gives NaN, as it does in torch
        scale = t.get("weight", 1.0) / np.sqrt(t["running_var"] + cast(float, node.attrs["eps"]))
        shift = t.get("bias", 0.0) - t["running_mean"] * scale
    names = _store(tensors, value, scale=scale, shift=shift)
    return Node("affine", node.inputs, node.shape, {}, names, node.path)


def _scaled(before: Node, affine: Node, value: int, tensors: Tensors, scales: Scales) -> Node:
    """Fold an affine node into the convolution or linear node before it."""
    scale, shift = (tensors.pop(affine.tensors[role]) for role in ("scale", "shift"))
    bias = tensors[before.tensors["bias"]] if "bias" in before.tensors else 0.0
    weight, folded = before.tensors["weight"], f"folded.{value}.weight"
    original, factor = scales.get(weight, (weight, 1.0))
    with np.errstate(all="ignore"):
        scales[folded] = original, factor * scale
        names = _store(tensors, value, bias=bias * scale + shift)
    return replace(before, tensors={"weight": folded, **names})


def _store(tensors: Tensors, value: int, **new: NDArray[np.float64]) -> dict[str, str]:
    names = {role: f"folded.{value}.{role}" for role in new}
    tensors.update({names[role]: array for role, array in new.items()})
    return names


def _takes_scale(node: Node) -> bool:
    # A BatchNorm counts channels along dimension 1, a linear writes along the last one.
    aligned = node.op == "conv2d" or (node.op == "linear" and len(node.shape) == 2)
    return aligned and _takes_residual(node)


def _takes_residual(node: Node) -> bool:
    return _takes_activation(node) and len(node.inputs) == 1


def _takes_activation(node: Node) -> bool:
    return OPERATORS[node.op].epilogue and not node.attrs.get("activation", 0)


def _add_into(nodes: dict[int, Node], value: int, readers: Mapping[int, int]) -> None:
    """Fuse an addition into the node of the later summand, which reads the other one."""
    for late, early in (sorted(nodes[value].inputs, reverse=True), sorted(nodes[value].inputs)):
        node = nodes.get(late)
        if (
            node is not None
            and readers[late] == 1
            and _takes_residual(node)
            and (early == 0 or nodes[early].shape == node.shape)
            and nodes[value].shape == node.shape
        ):
            del nodes[late]
            nodes[value] = replace(node, inputs=(node.inputs[0], early))
            return


def _activation(node: Node) -> dict[str, Attribute] | None:
    """The attributes that make an epilogue of an activation; None for any other node."""
    name = "gelu_tanh" if node.op == "gelu" and node.attrs["tanh"] else node.op
    if name not in ACTIVATIONS:
        return None
    parameter = node.attrs.get("slope", node.attrs.get("alpha", 0.0))
    return {"activation": ACTIVATIONS.index(name), "activation_parameter": parameter}


def _numbered(
    graph: Graph, nodes: dict[int, Node], output: int, tensors: Tensors, scales: Scales
) -> Graph:
    number = {value: i for i, value in enumerate(sorted(nodes), 1)} | {0: 0}
    kept = tuple(
        replace(nodes[value], inputs=tuple(number[v] for v in nodes[value].inputs))
        for value in sorted(nodes)
    )
    names = dict.fromkeys(name for node in kept for name in node.tensors.values())
    rounded = {name: _rounded(name, tensors, scales) for name in names}
    return Graph(graph.shape, kept, number[output], rounded)


def _rounded(name: str, tensors: Tensors, scales: Scales) -> NDArray[np.float32]:
    if name not in scales:
        with np.errstate(over="ignore"):
            return tensors[name].astype(np.float32, copy=False)
    original, scale = scales[name]
    weight = tensors[original]
    scaled = np.empty(weight.shape, np.float32)
    # numpy converts to float64 and back in small buffers: no float64 copy of the weight is made.
    with np.errstate(all="ignore"):
        return np.multiply(
            weight,
            scale.reshape(-1, *(1,) * (weight.ndim - 1)),
            out=scaled,
            dtype=np.float64,
            casting="same_kind",
        )
