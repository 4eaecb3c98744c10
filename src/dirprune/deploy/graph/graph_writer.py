"""Writes the nodes of a graph and names its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import Attribute, Shape
from dirprune.deploy.graph.shapes import infer_shape
from dirprune.deploy.graph.signature import Signature
from dirprune.deploy.graph.traced_sizes import expression_of, first, varies
from dirprune.deploy.graph.values import Constant, Value, plain_dims


@dataclass
class GraphWriter:
    """Numbers values, names tensors, and infers shapes.

    Args:
        shape: Shape of the input, -1 first.

    Attributes:
        path: Path of the module that the next nodes come from.
        is_whole: Whether the results of the operator that is being written are integers.
        batch_counts: For BatchNorms with a cumulative mean, by the name of their running mean,
            the count of batches.
        booleans: Numbers of the values that are booleans.
        batch_multiples: For values that are the index of a sample in the batch times a number:
            that number.
        batch_ranges: Numbers of the values that are 0, 1, 2, ... along the batch, or along the
            batch merged with a dimension.
        flat_places: For values that are a place in a sample plus such a multiple, as they number
            the rows of all samples: the place and the number.
        ranges: Numbers of the values that are 0, 1, 2, ... for every sample.
        pooled: For values that are places of maxima, by number: the strides of the windows, which
            do not overlap, and the width of the map.
        seeing: For masks of attention: which queries see a key.
        parts: For values that hold the real and the imaginary part of complex numbers along their
            last dimension: the two parts.
        shared: Constants that several nodes read, by what they are.
    """

    shape: Shape
    path: str = ""
    is_whole: bool = False
    batch_counts: Mapping[str, Constant] = field(default_factory=dict)
    booleans: set[int] = field(default_factory=set)
    batch_multiples: dict[int, Any] = field(default_factory=dict)
    batch_ranges: set[int] = field(default_factory=set)
    flat_places: dict[int, tuple[Value, Any]] = field(default_factory=dict)
    ranges: set[int] = field(default_factory=set)
    pooled: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    seeing: dict[Value, Value] = field(default_factory=dict)
    parts: dict[Value, tuple[Value, Value]] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)
    _nodes: list[Node] = field(default_factory=list)
    _tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _constants: dict[tuple[int, Shape], int] = field(default_factory=dict)
    _keep: list[Constant] = field(default_factory=list)

    # ---- shapes and sizes

    def graph_shape(self, x: Value) -> Shape:
        """The shape of a value in the graph, -1 first."""
        return self._nodes[x.number - 1].shape if x.number else self.shape

    def sizes(self, x: Any) -> Shape:
        """The sizes of a tensor, ``-c`` for c times the batch."""
        if isinstance(x, Constant):
            return tuple(x.tensor.shape)
        if not isinstance(x, Value):
            raise ValueError(f"it computes with {x}")
        shape = self.graph_shape(x)
        return tuple(prod(shape[g] for g in dims) for dims in x.dims)

    def axis(self, x: Value, dim: int) -> int:
        """The graph's dimension for a dimension of a value without the batch."""
        dims = x.dims[dim]
        if len(dims) != 1 or dims[0] == 0:
            raise ValueError("it works along the batch")
        return dims[0]

    def plain(self, x: Value) -> Value:
        """Refuse a value whose batch is not dimension 0 and on its own."""
        if not isinstance(x, Value) or x.dims != plain_dims(len(x.dims)):
            raise ValueError(f"its input {self.sizes(x)} does not have the batch alone and first")
        return x

    # ---- nodes

    def add(
        self,
        op: str,
        inputs: Sequence[Value | int],
        attrs: Mapping[str, Attribute] | None = None,
        tensors: Mapping[str, Constant | None] | None = None,
        dims: tuple[tuple[int, ...], ...] | None = None,
    ) -> Value:
        """Write a node and infer its shape.

        Args:
            op: A key of the table of operators.
            inputs: Values, or numbers of constants.
            attrs: Attributes.
            tensors: Tensors by role; None for missing tensors.
            dims: Dimensions of the result; by default those of the first value.

        Returns:
            The value of the node.

        Raises:
            ValueError: If the arguments do not fit each other.
        """
        for role, constant in (tensors or {}).items():
            if not isinstance(constant, Constant | None):
                raise ValueError(f"its {role} depends on the input")
        if not all(isinstance(x, Value | int) for x in inputs):
            raise ValueError("it reads a constant in the place of a value")
        named = {role: self._name(c) for role, c in (tensors or {}).items() if c is not None}
        values = [x for x in inputs if isinstance(x, Value)]
        numbers = tuple(x.number if isinstance(x, Value) else x for x in inputs)
        read = [self._nodes[n - 1].shape if n else self.shape for n in numbers]
        sizes = {role: self._tensors[name].shape for role, name in named.items()}
        shape = infer_shape(op, read, sizes, attrs or {})
        self._nodes.append(Node(op, numbers, shape, attrs or {}, named, self.path))
        if dims is None:
            dims = values[0].dims if values else plain_dims(len(shape))
        return Value(len(self._nodes), dims)

    def finish(
        self, output: Value, signature: Signature | None, dynamic: Dynamic | None = None
    ) -> Graph:
        """Check everything and return the graph, at its first sizes if they vary."""
        nodes, number = needed(self._nodes, output.number)
        used = {name for node in nodes for name in node.tensors.values()}
        tensors = {name: array for name, array in self._tensors.items() if name in used}
        if dynamic is not None:
            attrs = {i: _varying(node.attrs) for i, node in enumerate(nodes)}
            dynamic = replace(dynamic, attrs={i: own for i, own in attrs.items() if own})
            nodes = [
                replace(node, shape=first(node.shape), attrs=_first_attributes(node))
                for node in nodes
            ]
        shape: Shape = first(self.shape)
        return Graph(shape, tuple(nodes), number, tensors, signature, dynamic)

    def constant(self, constant: Constant, shape: Shape) -> int:
        """The number of a constant's node; with another shape it is a new tensor."""
        key = (id(constant), shape)
        if key not in self._constants:
            stored = constant
            if shape != tuple(constant.tensor.shape):
                stored = Constant(constant.tensor.reshape(shape))
            attrs = {"trained": 1} if stored.trained else {}
            node = self.add("constant", (), attrs, {"value": stored})
            self._constants[key] = node.number
            self._keep.append(constant)  # its id stays its own
        return self._constants[key]

    def _name(self, constant: Constant) -> str:
        if constant.name is None:
            taken = sum(name.startswith("constant.") for name in self._tensors)
            constant.name = f"constant.{taken}"
        if constant.name not in self._tensors:
            tensor = constant.tensor.detach().to("cpu", torch.float32)
            tensor = tensor.resolve_conj().resolve_neg().contiguous()
            array: NDArray[np.float32] = tensor.numpy()
            self._tensors[constant.name] = array.copy()
            self._keep.append(constant)
        return constant.name


def needed(nodes: Sequence[Node], output: int) -> tuple[list[Node], int]:
    """Leave out the nodes that an output does not depend on, such as places that nothing reads.

    Args:
        nodes: Of a graph.
        output: The number of its output.

    Returns:
        The other nodes, and the new number of the output.
    """
    read = {output}
    for value in range(len(nodes), 0, -1):
        if value in read:
            read.update(nodes[value - 1].inputs)
    numbers = {0: 0}
    kept = []
    for value in sorted(read - {0}):
        node = nodes[value - 1]
        kept.append(replace(node, inputs=tuple(numbers[v] for v in node.inputs)))
        numbers[value] = len(kept)
    return kept, numbers[output]


def _varying(attrs: Mapping[str, Attribute]) -> dict[str, Any]:
    return {key: expression_of(value) for key, value in attrs.items() if varies(value)}


def _first_attributes(node: Node) -> dict[str, Any]:
    kinds = {**OPERATORS[node.op].attrs, **OPERATORS[node.op].optional_attrs}
    found = {key: first(value) for key, value in node.attrs.items()}
    return {key: float(x) if kinds.get(key) == "float" else x for key, x in found.items()}
