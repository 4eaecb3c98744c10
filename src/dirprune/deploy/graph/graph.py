"""A network as a list of numbered values: what is captured, stored, shrunk, folded and run.

Value 0 is the input, value i + 1 the result of node i. Dimension 0 of every value is the batch,
written -1; only constants have none. The constructor checks a graph, so every graph is consistent:
known operators, values in order, attributes of the right kind, correct shapes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import (
    LONGEST,
    MOST,
    Attribute,
    Shape,
    check_attribute,
    check_size,
)
from dirprune.deploy.graph.shapes import infer_shape
from dirprune.deploy.graph.signature import Signature


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: A key of :data:`OPERATORS`.
        inputs: Numbers of the values that it reads, each smaller than its own.
        shape: Shape of its result, with -1 (the batch) first; for a constant, without -1.
        attrs: As :data:`OPERATORS` lists them.
        tensors: The role of each tensor, such as ``weight``, with its name in the graph.
        path: Module that it came from, such as ``layer1.0.conv1``.
    """

    op: str
    inputs: tuple[int, ...]
    shape: Shape
    attrs: Mapping[str, Attribute] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A network with one input and one output.

    Args:
        shape: Shape of the input, -1 first.
        nodes: The nodes, in an order in which they can be computed.
        output: Number of the value that is returned.
        tensors: float32 arrays by name, as in the state dict of the module.
        signature: The tensors of the input and output; None if the network maps one tensor to
            one tensor.
        dynamic: The sizes that vary; None if only the batch does. Shapes and attributes are those
            of one combination of sizes.

    Raises:
        ValueError: If the graph is not consistent; the message names the node.

    Example:
        >>> weight = np.ones((2, 3), np.float32)
        >>> node = Node("linear", (0,), (-1, 2), tensors={"weight": "fc.weight"}, path="fc")
        >>> Graph((-1, 3), (node,), 1, {"fc.weight": weight}).shapes
        ((-1, 3), (-1, 2))
    """

    shape: Shape
    nodes: tuple[Node, ...]
    output: int
    tensors: Mapping[str, NDArray[np.float32]]
    signature: Signature | None = None
    dynamic: Dynamic | None = None

    def __post_init__(self) -> None:
        _check_tensors(self.tensors)
        if len(self.nodes) > MOST:
            raise ValueError(f"{len(self.nodes)} nodes are more than the {MOST} allowed")
        if not 1 <= len(self.shape) <= 8 or self.shape[0] != -1:
            raise ValueError(f"the input's shape must be (-1, ...), got {self.shape}")
        check_size(self.shape[1:])
        shapes = [self.shape]
        for number, node in enumerate(self.nodes):
            try:
                check_node(node, shapes, self.tensors)
            except ValueError as error:
                where = f"node {number} ({node.op[:LONGEST]}, {node.path[:LONGEST] or 'root'})"
                raise ValueError(f"{where}: {error}") from None
            shapes.append(node.shape)
        if not 0 <= self.output < len(shapes):
            raise ValueError(f"there is no value {self.output} to return")
        if shapes[self.output][:1] != (-1,):
            raise ValueError("the output does not depend on the input")
        if self.signature is not None:
            _check_signature(self.signature, self.shape, shapes[self.output])
        if self.dynamic is not None:
            self.dynamic.check(self)

    def at(self, shapes: Sequence[Shape]) -> "Graph":
        """The graph for input tensors of these shapes; itself if only the batch varies.

        Raises:
            ValueError: If a size is out of its bounds.
        """
        if self.dynamic is None:
            return self
        return self.dynamic.at(self, self.dynamic.sizes(shapes))

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of every value."""
        return (self.shape, *(node.shape for node in self.nodes))

    @property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For every value, the nodes that read it, once for each input that is this value."""
        found: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for number, node in enumerate(self.nodes):
            for value in node.inputs:
                found[value].append(number)
        return tuple(map(tuple, found))


def check_node(
    node: Node, shapes: Sequence[Shape], tensors: Mapping[str, NDArray[np.float32]]
) -> None:
    """Refuse a node that does not fit the preceding values.

    Args:
        node: The node to check.
        shapes: Shapes of all values so far.
        tensors: Tensors of the graph.

    Raises:
        ValueError: With what is wrong.
    """
    rule = OPERATORS.get(node.op)
    if rule is None:
        raise ValueError("unknown operator")
    if len(node.path.encode()) > LONGEST:
        raise ValueError("the path is too long")
    if not rule.inputs[0] <= len(node.inputs) <= rule.inputs[1]:
        raise ValueError(f"takes {rule.inputs[0]} to {rule.inputs[1]} inputs")
    if not all(0 <= value < len(shapes) for value in node.inputs):
        raise ValueError(f"reads values {node.inputs}, {len(shapes)} are there")
    _check_keys(node.tensors, rule.tensors, rule.optional_tensors, "tensor")
    _check_keys(node.attrs, rule.attrs, rule.optional_attrs, "attribute")
    kinds = {**rule.attrs, **rule.optional_attrs}
    for key, value in node.attrs.items():
        check_attribute(key, value, kinds[key])
    if missing := [name for name in node.tensors.values() if name not in tensors]:
        raise ValueError(f"there is no tensor {missing[0]}")
    shape = infer_shape(
        node.op,
        [shapes[value] for value in node.inputs],
        {role: tensors[name].shape for role, name in node.tensors.items()},
        node.attrs,
    )
    if shape != node.shape:
        raise ValueError(f"says that its result has shape {node.shape}, it has {shape}")


def check_names(names: Iterable[str]) -> None:
    """Refuse names that no module could have.

    Raises:
        ValueError: If one is too long, or is empty between its dots.
    """
    for name in names:
        if len(name.encode()) > LONGEST or not all(name.split(".")):
            raise ValueError(f"{name[:LONGEST]!r} cannot be the name of a tensor")


def _check_signature(signature: Signature, input_shape: Shape, output_shape: Shape) -> None:
    if not signature.inputs or not signature.outputs:
        raise ValueError("the signature has no tensors")
    for slot in (*signature.inputs, *signature.outputs):
        check_size(slot.shape[1:])
        held = sum(size < 0 for size in slot.sizes)
        whole = slot.shape[0] == -1 and (-1) ** held * prod(slot.sizes) == slot.size
        if not whole or held > 1 or (not held and slot in signature.inputs):
            raise ValueError(f"the signature's {slot.sizes} do not fit {slot.shape}")
        if not 0 <= slot.place < len(slot.shape):
            raise ValueError(f"the signature places the batch at {slot.place}")
    if (signature.input_shape, signature.output_shape) != (input_shape, output_shape):
        raise ValueError(f"the signature's tensors do not fill {input_shape} and {output_shape}")


def _check_tensors(tensors: Mapping[str, NDArray[np.float32]]) -> None:
    if len(tensors) > MOST:
        raise ValueError(f"{len(tensors)} tensors are more than the {MOST} allowed")
    check_names(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ValueError(f"tensor {name} is {tensor.dtype}, not float32")
        if tensor.ndim > 8:
            raise ValueError(f"tensor {name} has more than 8 dimensions")
        check_size(tensor.shape)


def _check_keys(
    given: Iterable[str], required: Iterable[str], optional: Iterable[str], what: str
) -> None:
    if missing := set(required) - set(given):
        raise ValueError(f"lacks {what} {min(missing)}")
    if unknown := set(given) - set(required) - set(optional):
        raise ValueError(f"has no {what} {min(unknown)}")
