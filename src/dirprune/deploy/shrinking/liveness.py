"""Liveness: the channels that must be kept, because the output depends on them or on others.

Every channel of every value has a number, and rules have the form "if these are kept, those must
be kept". The result is the smallest set that contains the output and satisfies all rules, so that
channels that only depend on each other are removed together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.shrinking.constants import Arrays, is_constant
from dirprune.deploy.shrinking.filter_inputs import Bools

Reason = Literal[
    "read", "output", "padded", "mixed", "last", "shared", "grouped", "joined", "shuffled"
]
REASONS: Mapping[Reason, str] = {
    "read": "a weight reads what a product or pool makes of it, which varies",
    "output": "it belongs to the network's output",
    "padded": "it is a constant that is not zero, and a layer that pads reads it",
    "mixed": "a softmax, layer norm, mean or reshape mixes the channels",
    "last": "a layer must keep one channel",
    "shared": "its tensor is used twice, and it stays in the other place",
    "grouped": "another channel of its group stays",
    "joined": "it is added to, or multiplied with, a channel that stays",
    "shuffled": "channels lie in rows and columns, and both of its own stay",
}
"""Reasons why a channel is kept, the strongest first."""

ChannelNumbers = NDArray[np.int64]

ALWAYS = 0
"""The number of everything that is always kept."""


class Reads(NamedTuple):
    """Keeps the inputs (targets) that an output which is kept (source) reads with its weights.

    Targets have shape (I,), or (O, I) if every source has its own inputs.
    """

    sources: ChannelNumbers
    targets: ChannelNumbers
    joins: Bools
    reason: Reason
    is_need: bool = True

    def implied(self, kept: Bools) -> ChannelNumbers:
        """Return the channels that the rule keeps, given those kept so far."""
        stays = kept[self.sources]
        if self.targets.ndim == 2:
            return self.targets[self.joins & stays[:, None]]
        return self.targets[self.joins[stays].any(axis=0)]


class Follows(NamedTuple):
    """Keeps a target if its source is kept."""

    sources: ChannelNumbers
    targets: ChannelNumbers
    reason: Reason
    is_need: bool = False

    def implied(self, kept: Bools) -> ChannelNumbers:
        """Return the channels that the rule keeps, given those kept so far."""
        return self.targets[kept[self.sources]]


class Forms(NamedTuple):
    """Keeps whole rows and columns of a value, because only those form a tensor."""

    layout: ChannelNumbers
    reason: Reason = "shuffled"
    is_need: bool = False

    def implied(self, kept: Bools) -> ChannelNumbers:
        """Return the channels that the rule keeps, given those kept so far."""
        return self.layout[grid(lines(kept[self.layout]))]


class SameLines(NamedTuple):
    """Keeps the same places along a dimension of two values, such as the heads of an attention.

    Where a place is kept in the one, those elements of the other are kept that lie at this place,
    and at kept places along all other dimensions.
    """

    one: ChannelNumbers
    axis: int
    other: ChannelNumbers
    other_axis: int
    reason: Reason = "joined"
    is_need: bool = False

    def implied(self, kept: Bools) -> ChannelNumbers:
        """Return the channels that the rule keeps, given those kept so far."""
        line = lines(kept[self.one])[self.axis]
        size = self.other.shape[self.other_axis]
        line = np.broadcast_to(line if size > 1 else line.any(keepdims=True), (size,))
        every = lines(kept[self.other])
        every[self.other_axis] = line
        return self.other[grid(every)]


Rule = Reads | Follows | Forms | SameLines


@dataclass
class Liveness:
    """The kept channels of a graph, and the reasons.

    Attributes:
        layouts: For every value, the numbers of its elements.
        tensors: For every node, the numbers along each dimension of its tensors by role; None
            where a dimension is never cut.
        kept: Whether each number stays.
        needed: Whether the output depends on it, or would if nothing was constant behind it; what
            is kept and not needed is tied to what is needed.
        live: Whether each value is still needed.
        reasons: Why each number stays, as an index in `REASONS`; -1 for what goes.
    """

    layouts: list[ChannelNumbers]
    tensors: list[dict[str, tuple[ChannelNumbers | None, ...]]]
    kept: Bools
    needed: Bools
    live: list[bool]
    reasons: NDArray[np.int64]


def _same(a: Rule, b: Rule) -> bool:
    if type(a) is not type(b):
        return False
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def lines(stays: Bools) -> list[Bools]:
    """For every dimension, whether anything stays at each place along it."""
    axes = range(stays.ndim)
    return [np.asarray(stays.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]


def grid(along: list[Bools]) -> Bools:
    """The elements at places that stay along every dimension."""
    stays = np.ones((1,) * len(along), bool)
    for axis, line in enumerate(along):
        shape = [1] * len(along)
        shape[axis] = -1
        stays = stays & line.reshape(shape)
    return stays


def find_liveness(graphs: Sequence[Graph], tensors: Arrays, constants: list[Layout]) -> Liveness:
    """Find the channels to keep.

    Args:
        graphs: One graph with unfolded BatchNorm, at some combinations of its sizes.
        tensors: Its tensors.
        constants: The constants in its values, from :func:`.constants.find_constants`.

    Returns:
        The smallest set that does not change the output.
    """
    graph = graphs[0]
    rules = Rules(graphs, tensors, constants)
    kept = np.arange(rules.count) == ALWAYS
    needed = kept.copy()
    _close(needed, [rule for rule in rules.rules if rule.is_need])
    live = [False]
    while True:
        _close(kept, rules.rules)
        live = _live(graph, rules.layouts, kept)
        empty = [v for v, alive in enumerate(live) if alive and not kept[rules.layouts[v]].any()]
        if not empty:
            break
        rules.keep(_cheapest(rules.layouts[empty[-1]], constants[empty[-1]]), "last")
    reasons = np.full(rules.count, -1)
    for rank, reason in reversed(list(enumerate(REASONS))):
        for rule in rules.rules:
            if rule.reason == reason:
                reasons[rule.implied(kept)] = rank
    return Liveness(rules.layouts, rules.tensors, kept, needed, live, reasons)


def _close(kept: Bools, rules: list[Rule]) -> None:
    """Apply all rules, those of the last layers first, until nothing changes."""
    before = -1
    while (after := int(kept.sum())) != before:
        before = after
        for rule in reversed(rules):
            kept[rule.implied(kept)] = True


def _live(graph: Graph, layouts: list[ChannelNumbers], kept: Bools) -> list[bool]:
    """Find the values that are computed from, without what a concatenation loses entirely."""
    live = [False] * len(layouts)
    live[graph.output] = True
    for value in range(graph.output, 0, -1):
        node = graph.nodes[value - 1]
        for source in node.inputs if live[value] else ():
            live[source] |= node.op != "cat" or bool(kept[layouts[source]].any())
    return live


def _cheapest(layout: ChannelNumbers, constants: Layout) -> ChannelNumbers:
    """Choose what a value keeps at least: a constant if there is one, since it needs no inputs."""
    alike = constants.shape == layout.shape
    first = int((~np.isnan(constants)).argmax()) if alike else 0
    return layout.reshape(-1)[[first]]


@dataclass
class Rules:
    """Numbers every channel, and collects the rules, in one walk over the graph.

    The rules must hold at all sizes that the graph may have. So those of some combinations of
    sizes are collected, and a value whose channels depend on the sizes is kept.

    Attributes:
        graphs: The graph at these sizes.
        weights: The graph's tensors.
        constants: What its values hold.
        layouts: For every value so far, the numbers of its elements.
        readers: For every value, the nodes that read it.
    """

    graphs: Sequence[Graph]
    weights: Arrays
    constants: list[Layout]
    count: int = 1
    rules: list[Rule] = field(default_factory=list)
    layouts: list[ChannelNumbers] = field(default_factory=list)
    tensors: list[dict[str, tuple[ChannelNumbers | None, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.graphs[0]
        self.readers = graph.readers
        self._uses: dict[str, tuple[ChannelNumbers | None, ...]] = {}
        self._shapes = [own.shapes for own in self.graphs]
        self.layouts.append(self.fixed(len(graph.shape) - 1))
        for number, node in enumerate(graph.nodes):
            self.tensors.append({})
            layout = self._numbered(number)
            if layout is None:
                for value in node.inputs:
                    self.keep(self.layouts[value], "mixed")
                layout = self.fixed(len(node.shape) - 1)
            self.layouts.append(layout)
            if sum(size > 1 for size in layout.shape) > 1:
                self.rules.append(Forms(layout))
        self.keep(self.layouts[graph.output], "output")

    def _numbered(self, number: int) -> ChannelNumbers | None:
        """The numbers of a node's result, the same at all sizes; None if everything is kept."""
        start, before, ends = self.count, len(self.rules), []
        found: list[ChannelNumbers | None] = []
        for graph, shapes in zip(self.graphs, self._shapes):
            node, known = graph.nodes[number], len(self.rules)
            self.count = start  # so that new numbers are the same at all sizes
            inputs = [self.layouts[value] for value in node.inputs]
            channels = OPERATORS[node.op].channels
            found.append(channels.numbers(self, node, [shapes[v] for v in node.inputs], inputs))
            ends.append(self.count)
            new, first = self.rules[known:], self.rules[before:known]
            self.rules[known:] = [r for r in new if not any(_same(r, other) for other in first)]
        self.count = max(ends)
        layout = found[0]
        if layout is None or all(x is not None and np.array_equal(x, layout) for x in found[1:]):
            return layout
        self.keep(np.arange(start, self.count), "mixed")
        return None

    def add(self, rule: Rule) -> None:
        """Add a rule."""
        self.rules.append(rule)

    def keep(self, numbers: ChannelNumbers, reason: Reason) -> None:
        """Make something stay in any case."""
        self.rules.append(Follows(np.zeros_like(numbers), numbers, reason, is_need=True))

    def use(self, node: Node, axes: dict[str, tuple[ChannelNumbers | None, ...]]) -> None:
        """Note how the present node's tensors are cut; what is cut twice must be cut alike."""
        self.tensors[-1] = axes
        for role, mine in axes.items():
            theirs = self._uses.setdefault(node.tensors[role], mine)
            for a, b in zip(mine, theirs) if mine is not theirs else ():
                if a is not None and b is not None and np.array_equal(a, b):
                    continue
                if a is None or b is None:
                    for numbers in (a, b):
                        if numbers is not None:
                            self.keep(numbers, "shared")
                else:
                    self.rules.append(Follows(a, b, "shared"))
                    self.rules.append(Follows(b, a, "shared"))

    def is_constant(self, value: int) -> bool:
        """Whether a value is a constant of the graph."""
        return is_constant(self.graphs[0], value)

    def fresh(self, *shape: int) -> ChannelNumbers:
        """Numbers that nothing has yet."""
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def fixed(self, rank: int) -> ChannelNumbers:
        """The layout of what always stays."""
        return np.full((1,) * rank, ALWAYS)
