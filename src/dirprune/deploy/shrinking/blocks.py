"""Channels of a network that can be removed together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dirprune.deploy.graph.capture import captured
from dirprune.deploy.graph.example import ExampleInputs
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators.layouts import varying
from dirprune.deploy.shrinking.constants import find_constants
from dirprune.deploy.shrinking.liveness import (
    ALWAYS,
    ChannelNumbers,
    Follows,
    Reads,
    Rules,
    SameLines,
)
from dirprune.deploy.shrinking.report import LAYERS, layer_size
from dirprune.deploy.shrinking.variants import variants

Block = list[tuple[str, int, int]]
"""Slices of parameters: the name in the state dict, the dimension, and the index along it."""


def channel_blocks(model: nn.Module, example_inputs: ExampleInputs) -> list[Block]:
    """List the channels that :func:`dirprune.deploy.shrink` can remove, with what belongs to each.

    A block contains all parameters of one channel: the row of the layer that computes it, its
    bias, the scale and shift of its normalisation, and the same for every channel that is
    connected to it by a residual sum, a product or a depthwise layer; for a grouped convolution,
    all channels of a group; for attention, all queries, keys and values of a head. If all entries
    of a block are zero, the channel is the same for every input, and ``shrink`` removes it
    together with the weights that read it. The blocks do not overlap. In no block are channels
    that are connected to the network's input or output, that are mixed by a softmax or layer norm,
    that are computed by a one- or three-dimensional or transposed convolution, or that are not
    zero where a layer pads them (after a sigmoid, say, or a batch norm without scale and shift).
    ``shrink`` keeps one channel of every layer.

    Args:
        model: As for :func:`dirprune.deploy.capture`; the values of its weights do not matter.
        example_inputs: As for :func:`dirprune.deploy.capture`.

    Returns:
        The blocks, in the order in which the network computes them. Entry ``(name, dim, index)``
        means ``model.get_parameter(name).select(dim, index)``.

    Raises:
        ValueError: If the model cannot be captured.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 5))
        >>> blocks = channel_blocks(net, torch.ones(2, 3))
        >>> len(blocks), blocks[0]
        (2, [('0.weight', 0, 0), ('0.bias', 0, 0), ('1.weight', 0, 0), ('1.bias', 0, 0)])
    """
    _, rules, labels = _labelled(model, example_inputs)
    return [list(block) for block in _blocks(rules, labels).values()]


def channel_costs(
    model: nn.Module, example_inputs: ExampleInputs
) -> list[tuple[int, list[int], list[int]]]:
    """Find what each of the blocks of :func:`channel_blocks` costs.

    A layer multiplies each of its rows with each of its columns. Without a block it has fewer of
    both. From this list ``SparsityPlan(structure="channels", costs=...)`` finds the multiply-adds
    that remain.

    Args:
        model: As for :func:`channel_blocks`.
        example_inputs: As for :func:`channel_blocks`; the cost of a convolution depends on the
            size of the image.

    Returns:
        For every convolution and linear layer its multiply-adds for one sample, the block of each
        row, and the block of each column, as indices in ``channel_blocks(model, example_inputs)``;
        -1 for what is never removed. The list of columns is empty for grouped convolutions, whose
        columns go with their rows; both are empty for a layer whose channels are never removed.
        Products of two values, as in attention, are not counted.

    Raises:
        ValueError: If the model cannot be captured.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 5))
        >>> channel_costs(net, torch.ones(2, 3))
        [(6, [0, 1], [-1, -1, -1]), (10, [-1, -1, -1, -1, -1], [0, 1])]
    """
    graph, rules, labels = _labelled(model, example_inputs)
    numbers = np.full(rules.count, -1)
    blocks = list(_blocks(rules, labels))
    numbers[blocks] = np.arange(len(blocks))
    owner = numbers[labels]
    found = []
    for node, tensors in zip(graph.nodes, rules.tensors, strict=True):
        if node.op in LAYERS:
            rows, columns = (
                [] if channels is None else owner[channels].tolist()
                for channels in tensors.get("weight", (None, None))
            )
            found.append((layer_size(node, graph).macs, rows, columns))
    return found


def _labelled(
    model: nn.Module, example_inputs: ExampleInputs
) -> tuple[Graph, Rules, NDArray[np.int64]]:
    """The graph of a model, the rules of its channels, and the label of each channel."""
    graph = captured(model, example_inputs)
    varies = [varying(len(shape) - 1) for shape in graph.shapes]
    rules = Rules(variants(graph), graph.tensors, varies)
    labels = _block_labels(rules)
    while len(padded := _padded(rules, labels)):
        labels[np.isin(labels, padded)] = ALWAYS
    return graph, rules, labels


def _padded(rules: Rules, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels of blocks with a channel that is read although all blocks are zero."""
    blocks = _blocks(rules, labels)
    found = [np.zeros(0, np.int64)]
    for sign in (1, -1):  # a ReLU hides what is negative
        tensors = _trained(rules, sign)
        zeroed = {name: tensor.copy() for name, tensor in tensors.items()}
        for block in blocks.values():
            for name, dim, index in block:
                zeroed[name][(slice(None),) * dim + (index,)] = 0
        constants = find_constants(rules.graphs, zeroed)
        found += [
            labels[np.broadcast_to(rule.targets, rule.joins.shape)[rule.joins]]
            for rule in Rules(rules.graphs, tensors, constants).rules
            if isinstance(rule, Reads)
        ]
    padded = np.unique(np.concatenate(found))
    return padded[np.isin(padded, [*blocks])]


def _trained(rules: Rules, sign: int) -> dict[str, NDArray[Any]]:
    """Values that training may give the weights and the statistics."""
    numbers = np.random.default_rng(0)
    tensors = dict(rules.weights)
    for node in rules.graphs[0].nodes:
        for role, name in node.tensors.items():
            if role != "value" or node.attrs.get("trained"):
                drawn = numbers.uniform(0.5, 1.5, tensors[name].shape)
                tensors[name] = drawn if role == "running_var" else sign * drawn
    return tensors


def _blocks(
    rules: Rules, labels: NDArray[np.int64]
) -> dict[int, dict[tuple[str, int, int], None]]:
    """The slices of every block, by label, in order."""
    blocks: dict[int, dict[tuple[str, int, int], None]] = {}
    for name, dim, numbers in _rows(rules.graphs[0], rules):
        for index, label in enumerate(labels[numbers].tolist()):
            if label != ALWAYS:
                blocks.setdefault(label, {})[(name, dim, index)] = None
    return blocks


def _block_labels(rules: Rules) -> NDArray[np.int64]:
    """For every channel, the smallest number of those removed only together with it."""
    labels = np.arange(rules.count)
    pairs = [
        np.broadcast_arrays(rule.sources, rule.targets)
        for rule in rules.rules
        if isinstance(rule, Follows) and not rule.is_need
    ]
    pairs += [pair for rule in rules.rules if isinstance(rule, SameLines) for pair in _tied(rule)]
    for rule in rules.rules:
        if isinstance(rule, Follows):
            labels[rule.targets[rule.sources == ALWAYS]] = ALWAYS
    before = None
    while before is None or not np.array_equal(before, labels):
        before = labels.copy()
        for a, b in pairs:
            least = np.minimum(labels[a], labels[b])
            np.minimum.at(labels, a, least)
            np.minimum.at(labels, b, least)
        labels = labels[labels]
    return labels


def _tied(rule: SameLines) -> Iterator[Any]:
    """What one rule removes together: all channels of a head; without heads, single channels."""
    values = (rule.one, rule.axis), (rule.other, rule.other_axis)
    is_head = all(axis < value.ndim - 2 for value, axis in values)
    if not is_head and any(value.size > value.shape[axis] for value, axis in values):
        return
    one, other = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v, axis in values)
    for a, b in ((one[:, :1], one), (one[:, :1], other[:, :1]), (other[:, :1], other)):
        yield np.broadcast_arrays(a, b)


def _rows(graph: Graph, rules: Rules) -> list[tuple[str, int, ChannelNumbers]]:
    """Trained tensors whose slices make channels: name, dimension and the numbers along it."""
    found = []
    for number, node in enumerate(graph.nodes):
        for role, axes in rules.tensors[number].items():
            if role in ("weight", "bias") and axes and axes[0] is not None:
                found.append((node.tensors[role], 0, axes[0]))
        if node.op == "constant" and node.attrs.get("trained"):
            layout = rules.layouts[number + 1]
            for dim, size in enumerate(layout.shape):
                if size > 1 and layout.size == size:
                    found.append((node.tensors["value"], dim, layout.reshape(-1)))
    return found
