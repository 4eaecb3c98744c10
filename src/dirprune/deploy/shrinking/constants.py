r"""Which channels hold the same number whatever the input is, and which number.

A filter that is all zero gives its bias b everywhere; the BatchNorm after it makes of this

.. math:: \beta + \gamma\,(b - \mathrm{mean}) / \sqrt{\mathrm{var} + \epsilon},

as it makes :math:`\beta` of anything where :math:`\gamma = 0`; and so on, through activations,
pooling, sums, products and concatenations.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.module import run_node
from dirprune.deploy.shrinking.layout import (
    Layout,
    compress,
    joined,
    operand,
    permuted,
    reshaped,
    sliced,
    varies_only_along,
)
from dirprune.deploy.shrinking.reading import reading

Tensors = Mapping[str, NDArray[Any]]

_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh",
                "hardswish", "hardsigmoid")  # fmt: skip
_BINARY: dict[str, Callable[[Layout, Layout], Layout]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": lambda a, b: np.where((a == 0) | (b == 0), 0.0, a * b),
    "div": np.divide,
}
_UNCHANGED = ("dropout", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
              "upsample_nearest", "upsample_bilinear")  # fmt: skip


def find_constants(graph: Graph, tensors: Tensors) -> list[Layout]:
    """Follow constants from layer to layer, in float64.

    Args:
        graph: With unfolded BatchNorm.
        tensors: Its tensors.

    Returns:
        For every value the layout of what it holds, NaN where that depends on the input. Of a
        constant, an array that broadcasts to its own shape.
    """
    found: list[Layout] = [_varying(len(graph.shape) - 1)]
    shapes = graph.shapes
    for node in graph.nodes:
        with np.errstate(all="ignore"):
            held = _constant(node, graph, tensors, found, shapes)
        held = np.where(np.isfinite(held), held, np.nan)
        found.append(compress(held))
    return found


def _constant(
    node: Node, graph: Graph, tensors: Tensors, found: list[Layout], shapes: tuple[Any, ...]
) -> Layout:
    attrs: Mapping[str, Any] = node.attrs
    rank = len(node.shape) - 1
    inputs = [found[value] for value in node.inputs]
    own = {role: tensors[name] for role, name in node.tensors.items()}
    match node.op:
        case "constant":
            return np.asarray(own["value"], float)
        case "conv2d" | "linear":
            return _filters(node, shapes[node.inputs[0]], own, inputs[0])
        case "batch_norm":
            own = {role: tensor.astype(float) for role, tensor in own.items()}
            scale = own.get("weight", 1.0) / np.sqrt(own["running_var"] + attrs["eps"])
            shift = own.get("bias", 0.0) - scale * own["running_mean"]
            scale, shift = (v.reshape(-1, *(1,) * (rank - 1)) for v in (scale, shift))
            return np.asarray(np.where(scale == 0, shift, scale * inputs[0] + shift))
        case "add" | "sub" | "mul" | "div":
            if "scalar" in attrs:
                inputs.append(np.array(attrs["scalar"]))
            if attrs.get("reversed", 0):
                inputs.reverse()
            a, b = (
                operand(held, rank + 1) if _is_constant(graph, value) else held
                for held, value in zip(inputs, (*node.inputs, 0))
            )
            return _BINARY[node.op](a, b) + np.zeros((1,) * rank)
        case "cat":
            axis = attrs["dim"] - 1
            sizes = [shapes[value][axis + 1] for value in node.inputs]
            return joined(inputs, sizes, axis)
        case "slice":
            return sliced(inputs[0], attrs)
        case "avg_pool2d":
            # Zeros around the border are averaged too.
            counted = attrs["count_include_pad"] and any(attrs["padding"])
            return _per_channel(inputs[0], keep=lambda k: (k == 0) | (not counted))
        case "pad":
            inside = not any(attrs["padding"])
            return _per_channel(inputs[0], keep=lambda k: (k == attrs["value"]) | inside)
        case "max_pool2d" if any(attrs["padding"]) and attrs["dilation"] != (1, 1):
            return _varying(rank)  # a window could hold padding alone
        case "mean":
            axes = tuple(dim - 1 for dim in attrs["dims"])
            return np.asarray(inputs[0].mean(axis=axes, keepdims=bool(attrs["keepdim"])))
        case "reshape":
            return reshaped(inputs[0], shapes[node.inputs[0]][1:], node.shape[1:])
        case "permute":
            return permuted(inputs[0], attrs)
        case op if op in _ACTIVATIONS:
            result = run_node(node, [torch.from_numpy(np.array(inputs[0]))], {})
            return np.asarray(result)
        case op if op in _UNCHANGED:
            whole = op == "dropout" or varies_only_along(inputs[0], 0)
            return inputs[0] if whole else _varying(rank)
    return _varying(rank)


def _filters(node: Node, shape: tuple[int, ...], own: Tensors, held: Layout) -> Layout:
    read = reading(node, shape, own["weight"], held)
    known = ~(read.varying | read.padded).any(axis=1)
    values = np.where(known, read.shift() + own.get("bias", 0.0), np.nan)
    rank = len(node.shape) - 1
    return (
        values.reshape(-1, 1, 1)
        if node.op == "conv2d"
        else values.reshape((1,) * (rank - 1) + (-1,))
    )


def _per_channel(held: Layout, keep: Callable[[Layout], Any]) -> Layout:
    if not varies_only_along(held, 0):
        return _varying(held.ndim)
    return np.where(keep(held), held, np.nan)


def _varying(rank: int) -> Layout:
    return np.full((1,) * rank, np.nan)


def _is_constant(graph: Graph, value: int) -> bool:
    return value > 0 and graph.nodes[value - 1].op == "constant"
