"""What of a graph follows from the sizes of its inputs: one graph for all sizes within bounds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import MOST, Attribute, Shape
from dirprune.deploy.graph.shapes import infer_shape
from dirprune.deploy.graph.signature import Signature, Slot
from dirprune.deploy.graph.sizes import Expression, SizeRange, evaluate
from dirprune.deploy.graph.traced_sizes import SizeSpace, real, traced

if TYPE_CHECKING:
    from dirprune.deploy.graph.graph import Graph, Node

_MOST_SIZES = 64
Expressions = tuple[Expression, ...]


class SizedGraph(NamedTuple):
    """What of a graph depends on sizes.

    Attributes:
        shape: Of the input.
        nodes: With their shapes and attributes.
        signature: With the sizes of the tensors.
    """

    shape: Shape
    nodes: "tuple[Node, ...]"
    signature: Signature | None


@dataclass(frozen=True)
class Dynamic:
    """The sizes of a graph that vary, and what follows from them.

    The graph itself has one combination of sizes. Shapes of nodes follow from the attributes.

    Attributes:
        ranges: The sizes.
        names: Names of the input tensors.
        inputs: Sizes of each input tensor, without the batch.
        outputs: For each output tensor, its shape in the graph and its sizes in the network.
        attrs: By number of the node, the attributes that vary.
    """

    ranges: tuple[SizeRange, ...]
    names: tuple[str, ...]
    inputs: tuple[Expressions, ...]
    outputs: tuple[tuple[Expressions, Expressions], ...]
    attrs: Mapping[int, Mapping[str, Expression]]

    def sizes(self, shapes: Sequence[Shape]) -> tuple[int, ...]:
        """Find the sizes of a call.

        Args:
            shapes: Of the input tensors, with the batch.

        Raises:
            ValueError: If a size is out of its bounds or does not fit the other ones.
        """
        found: dict[str, int] = {}
        given = list(zip(self.names, shapes, self.inputs, strict=True))
        for name, shape, expected in given:
            if len(shape) != len(expected) + 1:
                raise ValueError(
                    f"input {name} must have {len(expected) + 1} dimensions, got shape {shape}"
                )
            for size, expression in zip(shape[1:], expected):
                if type(expression) is str:
                    found.setdefault(expression, size)
        ranges = {r.name: r for r in self.ranges}
        for name, shape, expected in given:
            for dim, (size, expression) in enumerate(zip(shape[1:], expected), 1):
                where = f"input {name}, dimension {dim}: size {size}"
                if type(expression) is str and size not in ranges[expression]:
                    raise ValueError(f"{where} is not within {ranges[expression]}")
                if size != (needed := evaluate(expression, found)):
                    raise ValueError(f"{where} must be {needed}")
        return tuple(found[r.name] for r in self.ranges)

    def stated(self, graph: "Graph") -> tuple[int, ...]:
        """The sizes that the graph itself has."""
        signature = graph.signature
        slots = [] if signature is None else [slot.shape for slot in signature.inputs]
        return self.sizes(slots or [graph.shape])

    def between(self, parts: Sequence[float], longest: int) -> list[tuple[int, ...]]:
        """Combinations of sizes that lie a part of the way between their bounds.

        Args:
            parts: From 0, the smallest sizes, to 1, the largest.
            longest: Sizes that exceed the smallest by more are left out.
        """
        sizes = [r.sizes[: max(1, longest // r.step)] for r in self.ranges]
        return [tuple(own[round(part * (len(own) - 1))] for own in sizes) for part in parts]

    def at(self, graph: "Graph", sizes: Sequence[int]) -> "Graph":
        """The ordinary graph for one combination of sizes.

        Args:
            graph: The graph that this belongs to.
            sizes: One for each range.

        Raises:
            ValueError: If they do not give a consistent graph.
        """
        known = dict(zip((r.name for r in self.ranges), sizes, strict=True))
        found = self._with_sizes(graph, lambda expression: evaluate(expression, known))
        return type(graph)(found.shape, found.nodes, graph.output, graph.tensors, found.signature)

    def traced(self, graph: "Graph") -> "SizedGraph":
        """The graph whose shapes and attributes are computed from sizes (:class:`.Size`)."""
        space = SizeSpace(self.ranges, self.stated(graph))
        known = dict(zip((r.name for r in self.ranges), space.symbols, strict=True))
        return self._with_sizes(graph, lambda expression: traced(expression, known))

    def _with_sizes(self, graph: "Graph", size: Callable[[Expression], Any]) -> "SizedGraph":
        inputs = [(-1, *_integers(own, size)) for own in self.inputs]
        signature = graph.signature
        shape = inputs[0]
        if signature is not None:
            slots = [
                Slot(own, slot.kind, own)
                for own, slot in zip(inputs, signature.inputs, strict=True)
            ]
            results = [
                Slot(_integers(own, size), slot.kind, _integers(sizes, size), slot.place)
                for (own, sizes), slot in zip(self.outputs, signature.outputs, strict=True)
            ]
            signature = replace(signature, inputs=tuple(slots), outputs=tuple(results))
            shape = signature.input_shape
        shapes, nodes = [shape], []
        for number, node in enumerate(graph.nodes):
            attrs = {**node.attrs, **_computed(self.attrs.get(number, {}), node.op, size)}
            tensors = {role: graph.tensors[name].shape for role, name in node.tensors.items()}
            try:
                own = infer_shape(node.op, [shapes[v] for v in node.inputs], tensors, attrs)
            except ValueError as error:
                where = f"node {number} ({node.op}, {node.path or 'root'})"
                at = {r.name: size(r.name) for r in self.ranges}
                raise ValueError(f"{where} at sizes {at}: {error}") from None
            nodes.append(replace(node, attrs=attrs, shape=own))
            shapes.append(own)
        return SizedGraph(shape, tuple(nodes), signature)

    def check(self, graph: "Graph") -> None:
        """Refuse what does not belong to a graph, or fails at the smallest or largest sizes.

        Raises:
            ValueError: If so.
        """
        slots = 1 if graph.signature is None else len(graph.signature.inputs)
        results = 0 if graph.signature is None else len(graph.signature.outputs)
        names = [r.name for r in self.ranges]
        if not 1 <= len(names) <= _MOST_SIZES or len(set(names)) < len(names):
            raise ValueError(f"a graph has 1 to {_MOST_SIZES} sizes with different names")
        if {len(self.names), len(self.inputs)} != {slots} or len(self.outputs) != results:
            raise ValueError("the sizes are not those of the graph's inputs and outputs")
        placed = {e for own in self.inputs for e in own if type(e) is str}
        if placed != set(names):
            raise ValueError("not every size is a dimension of an input")
        for number, attrs in self.attrs.items():
            if not 0 <= number < len(graph.nodes):
                raise ValueError(f"there is no node {number}")
            if unknown := set(attrs) - set(graph.nodes[number].attrs):
                raise ValueError(f"node {number} has no attribute {min(unknown)}")
        for sizes in ([r.sizes[0] for r in self.ranges], [r.sizes[-1] for r in self.ranges]):
            self.at(graph, sizes)

    def to_json(self) -> str:
        """Write it for a file."""
        data = {
            "ranges": [[r.name, r.low, r.high, r.step] for r in self.ranges],
            "names": self.names,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "attrs": self.attrs,
        }
        return json.dumps(data, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Dynamic":
        """Read untrusted sizes; :meth:`check` does the rest.

        Raises:
            ValueError: If they are not valid.
        """
        try:
            data = json.loads(text)
            ranges = tuple(SizeRange(str(name), *numbers) for name, *numbers in data["ranges"])
            inputs = tuple(tuple(own) for own in data["inputs"])
            outputs = tuple((tuple(shape), tuple(sizes)) for shape, sizes in data["outputs"])
            attrs = {int(number): dict(own) for number, own in data["attrs"].items()}
            names = tuple(str(name) for name in data["names"])
        except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
            raise ValueError(f"the sizes of the network are not valid: {error}") from None
        if len(attrs) > MOST:
            raise ValueError(f"sizes for {len(attrs)} nodes are more than the {MOST} allowed")
        return Dynamic(ranges, names, inputs, outputs, attrs)


def _integers(expressions: Sequence[Expression], size: Callable[[Expression], Any]) -> Shape:
    return tuple(_integer(expression, size) for expression in expressions)


def _integer(expression: Expression, size: Callable[[Expression], Any]) -> int:
    result = size(expression)
    if isinstance(result, float):
        raise ValueError(f"a size of {result} is not an integer")
    return result  # type: ignore[no-any-return]


def _computed(
    attrs: Mapping[str, Expression], op: str, size: Callable[[Expression], Any]
) -> dict[str, Attribute]:
    """Attributes at given sizes, by the kind that their operator needs."""
    record = OPERATORS[op]
    kinds = {**record.attrs, **record.optional_attrs}
    found: dict[str, Any] = {}
    for key, expression in attrs.items():
        if kinds[key] == "float":
            found[key] = real(size(expression))
        elif kinds[key] in ("int", "flag"):
            found[key] = _integer(expression, size)
        else:
            if type(expression) is not list:
                raise ValueError(f"attribute {key} must be a list of expressions")
            found[key] = _integers(expression, size)
    return found
