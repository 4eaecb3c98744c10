"""The report of shrinking: sizes of every layer, and reasons for channels that were kept."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.shrinking.liveness import REASONS, Liveness

LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear")
"""The layers that are counted; products of two values, as in attention, are not."""


@dataclass(frozen=True)
class LayerSize:
    """A convolution or linear layer.

    Attributes:
        outputs: Channels that it writes; 0 if the layer is gone.
        inputs: Channels that it reads; of a linear layer, columns.
        weights: Entries of weight and bias.
        macs: Multiplications per sample.
    """

    outputs: int = 0
    inputs: int = 0
    weights: int = 0
    macs: int = 0


@dataclass(frozen=True)
class LayerChange:
    """A layer before and after.

    Attributes:
        path: Of its module.
        before: In the network that was given.
        after: In the one that was made of it.
        idle: Channels that stayed although they are constant or nothing needs them, by reason: a
            key of :data:`.liveness.REASONS`.
    """

    path: str
    before: LayerSize
    after: LayerSize
    idle: Mapping[str, int]


@dataclass(frozen=True)
class ShrinkReport:
    """Layer by layer and in all; ``str()`` is a table.

    Attributes:
        layers: In the order in which they run.
        parameters: Of the network before and after: everything but BatchNorm's statistics and
            fixed constants.
        macs: Multiplications per sample in its convolutions and linear layers, before and after.
        error: The largest difference between the outputs of both in float64, relative to the
            largest output.
    """

    layers: tuple[LayerChange, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    error: float

    @property
    def idle(self) -> Mapping[str, int]:
        """Channels without effect that were kept, by reason, over all layers."""
        total: Counter[str] = Counter()
        for layer in self.layers:
            total.update(layer.idle)
        return {reason: total[reason] for reason in REASONS if total[reason]}

    def __str__(self) -> str:
        """Draw the table, no wider than its numbers."""
        widths = [max(map(len, column)) for column in zip(*self.rows)]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            )
            for row in self.rows
        ]
        return "\n".join([*lines, *self.notes])

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table: its titles, and a row for each layer."""
        rows: list[tuple[str, ...]] = [("", "channels", "weights", "MACs")]
        for layer in self.layers:
            old, new = layer.before, layer.after
            sizes = [(old.outputs, new.outputs), (old.weights, new.weights), (old.macs, new.macs)]
            rows.append((layer.path, *map(_change, sizes)))
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines below the table: the sums, why idle channels were kept, and the error."""
        kept = {
            text: ", ".join(f"{x.idle[reason]} in {x.path}" for x in self.layers
                            if x.idle.get(reason))
            for reason, text in REASONS.items()
        }  # fmt: skip
        return (
            f"all layers: {_change(self.parameters)} parameters, {_change(self.macs)} MACs",
            *(f"idle but kept, {where}: {text}" for text, where in kept.items() if where),
            f"largest difference in float64, relative: {self.error:.1e}",
        )


def _change(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]:,} -> {sizes[1]:,}"


def make_report(
    before: Graph, after: Graph, liveness: Liveness, constants: list[Layout], error: float
) -> ShrinkReport:
    """Compare two graphs.

    Args:
        before: The graph that was given.
        after: The one that was made of it.
        liveness: What stays of ``after``, which is everything.
        constants: What its values hold.
        error: How far the outputs differ.

    Returns:
        The report.
    """
    left = {key: (number, node) for key, number, node in _layers(after)}
    changes = []
    for key, _, node in _layers(before):
        size, idle = LayerSize(), {}
        if key in left:
            number, kept = left[key]
            size = layer_size(kept, after)
            idle = _idle(number + 1, liveness, constants)
        changes.append(LayerChange(node.path, layer_size(node, before), size, idle))
    parameters = count_parameters(before), count_parameters(after)
    macs = sum(c.before.macs for c in changes), sum(c.after.macs for c in changes)
    return ShrinkReport(tuple(changes), parameters, macs, error)


def layer_size(node: Node, graph: Graph) -> LayerSize:
    """Measure a convolution or linear layer.

    Args:
        node: Of the graph.
        graph: What it is part of.

    Returns:
        Its size; a window is counted in full at the border too.
    """
    weight = graph.tensors[node.tensors["weight"]]
    tensors = [graph.tensors[name] for name in node.tensors.values()]
    source, result = graph.shapes[node.inputs[0]], node.shape
    if node.op == "linear":
        outputs, inputs, positions = result[-1], source[-1], result[1:-1]
    else:
        outputs, inputs = result[1], source[1]
        # every weight of a transposed convolution is used once at each place of its input
        positions = (source if node.op == "conv_transpose2d" else result)[2:]
    weights = sum(tensor.size for tensor in tensors)
    return LayerSize(outputs, inputs, weights, weight.size * prod(positions))


def count_parameters(graph: Graph) -> int:
    """Count what training could change, a tensor that is used twice once."""
    names = {
        name
        for node in graph.nodes
        for role, name in node.tensors.items()
        if not role.startswith("running") and (role != "value" or node.attrs.get("trained"))
    }
    return sum(graph.tensors[name].size for name in names)


def _layers(graph: Graph) -> list[tuple[tuple[str, int], int, Node]]:
    """Every layer with a key that is the same before and after."""
    seen: Counter[str] = Counter()
    found = []
    for number, node in enumerate(graph.nodes):
        if node.op in LAYERS:
            found.append(((node.path, seen[node.path]), number, node))
            seen[node.path] += 1
    return found


def _idle(value: int, liveness: Liveness, constants: list[Layout]) -> dict[str, int]:
    numbers = liveness.layouts[value].reshape(-1)
    held = np.broadcast_to(constants[value].reshape(-1), numbers.shape)
    idle = ~np.isnan(held) | ~liveness.needed[numbers]
    counts = Counter(liveness.reasons[numbers[idle]].tolist())
    return {reason: counts[rank] for rank, reason in enumerate(REASONS) if counts[rank]}
