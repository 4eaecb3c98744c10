"""Writes a graph in ONNX; what each operator becomes is in its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import Shape

_TYPES = {"float": TensorProto.FLOAT, "int": TensorProto.INT64, "bool": TensorProto.BOOL}


@dataclass(frozen=True)
class OnnxNode:
    """A node as its record writes it.

    Attributes:
        node: In the graph.
        value: The number of its result.
        name: What its result is called in ONNX.
        inputs: What the values that it reads are called.
        tensors: What its tensors are called, by role.
        shape: Of the first value that it reads.
    """

    node: Node
    value: int
    name: str
    inputs: list[str]
    tensors: Mapping[str, str]
    shape: Shape

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The node's attributes."""
        return self.node.attrs

    @property
    def weighted_inputs(self) -> list[str]:
        """The inputs, the weight, and the bias if there is one."""
        return self.inputs + [self.tensors[r] for r in ("weight", "bias") if r in self.tensors]


def onnx_graph(graph: Graph) -> GraphProto:
    """Write a graph in ONNX; tensors keep their names, the batch is called ``batch``.

    Args:
        graph: As captured, not lowered.

    Returns:
        A graph from ``input`` to ``output``; with a signature, from the arguments to ``output.0``
        and so on.

    Raises:
        ValueError: If there is a node that only lowered graphs have.
    """
    writer = Writer(graph)
    inputs = writer.read_inputs()
    for number, node in enumerate(graph.nodes):
        writer.write(number + 1, node)
    outputs = writer.write_outputs()
    initializers = [numpy_helper.from_array(a, name) for name, a in writer.tensors.items()]
    return helper.make_graph(writer.nodes, "dirprune", inputs, outputs, initializers)


class Writer:
    """Collects the nodes and tensors of an ONNX graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.shapes = graph, graph.shapes
        self.nodes: list[Any] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.names: dict[int, str] = {}
        self._done: dict[str, str] = {}

    def read_inputs(self) -> list[Any]:
        """Declare the inputs, and lay several side by side as the graph reads them."""
        signature = self.graph.signature
        if signature is None:
            self.names[0] = "input"
            return [_declare("input", self.graph.shape)]
        declared, parts = [], []
        for i, slot in enumerate(signature.inputs):
            name = signature.names[i] if len(signature.names) == len(signature.inputs) else ""
            name = name or f"input.{i}"
            declared.append(_declare(name, slot.shape, _TYPES[slot.kind]))
            if slot.kind != "float":
                name = self.add("Cast", [name], to=TensorProto.FLOAT)
            if len(signature.inputs) > 1:
                name = self.add("Reshape", [name, self.integers((-1, slot.size))])
            parts.append(name)
        self.names[0] = parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=1)
        return declared

    def write(self, value: int, node: Node) -> None:
        """Write one node; it may take several of ONNX's."""
        inputs = [self.names[source] for source in node.inputs]
        last = value == self.graph.output and self.graph.signature is None
        name = "output" if last else f"{value}:{node.path or node.op}"
        self.names[value] = name
        own = {role: self.tensor(self.graph.tensors[t], t) for role, t in node.tensors.items()}
        shape = self.shapes[node.inputs[0]] if node.inputs else ()
        written = OnnxNode(node, value, name, inputs, own, shape)
        how = OPERATORS[node.op].onnx
        if how is None:
            raise ValueError(f"{node.op} is of lowered graphs only: export what was captured")
        if isinstance(how, str):
            self.add(how, inputs, name)
        else:
            how(self, written)

    def write_outputs(self) -> list[Any]:
        """Declare the outputs, and take several apart."""
        signature, result = self.graph.signature, self.names[self.graph.output]
        if signature is None:
            if result != "output":
                self.add("Identity", [result], "output")
            return [_declare("output", self.shapes[self.graph.output])]
        declared, at = [], 0
        for i, slot in enumerate(signature.outputs):
            name, x = f"output.{i}", result
            if len(signature.outputs) > 1:
                x = self.slice(result, 1, at, at + slot.size)
                x = self.add("Reshape", [x, self.integers(slot.shape)])
            if not any(size < 0 for size in slot.sizes):
                x = self.slice(x, 0, 0, 1)
            if slot.place:
                rest = range(slot.place + 1, len(slot.shape))
                x = self.add("Transpose", [x], perm=[*range(1, slot.place + 1), 0, *rest])
            sizes = [-1 if size < 0 else size for size in slot.sizes]
            x = self.add("Reshape", [x, self.integers(sizes)])
            kind = TensorProto.FLOAT if slot.kind == "float" else _TYPES[slot.kind]
            self.add("Cast", [x], name, to=kind)
            declared.append(_declare(name, slot.sizes, kind))
            at += slot.size
        return declared

    def alias(self, n: OnnxNode, name: str) -> None:
        """Use an existing name as the result of a node."""
        self.names[n.value] = name

    def batch_size(self) -> str:
        """The size of the batch, as a list of one integer."""
        if "batch_size" not in self._done:
            shape = self.add("Shape", [self.names[0]])
            self._done["batch_size"] = self.slice(shape, 0, 0, 1)
        return self._done["batch_size"]

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attrs: Any) -> str:
        """Write a node of ONNX and return the name of its result."""
        result = name or f"{len(self.nodes)}:{op}"
        self.nodes.append(helper.make_node(op, list(inputs), [result], result, **attrs))
        return result

    def add_several(
        self, op: str, inputs: Sequence[str], names: Sequence[str], **attrs: Any
    ) -> None:
        """Write a node of ONNX with several results."""
        self.nodes.append(helper.make_node(op, list(inputs), list(names), names[0], **attrs))

    def tensor(self, array: NDArray[Any], name: str) -> str:
        """Add a tensor and return its name."""
        self.tensors[name] = array
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Add a list of integers and return its name."""
        return self.tensor(np.array(values, np.int64), f"integers.{'.'.join(map(str, values))}")

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1, name: str = "") -> str:
        """Take a slice."""
        places = [self.integers([v]) for v in (start, end, axis, step)]
        return self.add("Slice", [x, *places], name)

    def pad(self, x: str, padding: Sequence[int], value: float, name: str = "") -> str:
        """Pad the last two dimensions: top, bottom, left, right."""
        top, bottom, left, right = padding
        pads = self.integers([0, 0, top, left, 0, 0, bottom, right])
        filler = self.tensor(np.array(value, np.float32), f"pad.{value}")
        return self.add("Pad", [x, pads, filler], name)

    def resize(self, x: str, size: Shape, name: str, **attrs: Any) -> None:
        """Resize the last two dimensions."""
        self.add("Resize", [x, "", "", self.integers(size)], name, axes=[2, 3], **attrs)


def _declare(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> Any:
    sizes = ["batch" if size == -1 else f"{-size} batch" if size < 0 else size for size in shape]
    return helper.make_tensor_value_info(name, kind, sizes)
