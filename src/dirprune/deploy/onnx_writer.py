"""Writes a graph in ONNX; what each operator becomes is in its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper, numpy_helper

from dirprune.deploy.graph.dynamic import SizedGraph
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.traced_sizes import Size, varies, written
from dirprune.deploy.onnx_sizes import SizeWriter

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
    for number, node in enumerate(writer.sized.nodes):
        writer.write(number + 1, node)
    outputs = writer.write_outputs()
    initializers = [numpy_helper.from_array(a, name) for name, a in writer.tensors.items()]
    return helper.make_graph(writer.nodes, "dirprune", inputs, outputs, initializers)


class Writer:
    """Collects the nodes and tensors of an ONNX graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.sized = graph, SizedGraph(graph.shape, graph.nodes, graph.signature)
        if graph.dynamic is not None:
            self.sized = graph.dynamic.traced(graph)
        self.shapes = (self.sized.shape, *(node.shape for node in self.sized.nodes))
        self.nodes: list[Any] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.names: dict[int, str] = {}
        self._done: dict[str, str] = {}
        self._declared: set[str] = {"input", "output"}

    def read_inputs(self) -> list[Any]:
        """Declare the inputs, and lay several side by side as the graph reads them."""
        signature = self.sized.signature
        if signature is None:
            self.names[0] = "input"
            self._read_sizes(["input"])
            return [_declare("input", self.sized.shape)]
        count = len(signature.inputs)
        names = signature.names if len(signature.names) == count else [""] * count
        names = [name or f"input.{i}" for i, name in enumerate(names)]
        self._declared = {*names, *(f"output.{i}" for i in range(len(signature.outputs)))}
        self._read_sizes(names)
        declared, parts = [], []
        for name, slot in zip(names, signature.inputs):
            declared.append(_declare(name, slot.shape, _TYPES[slot.kind]))
            if slot.kind != "float":
                name = self.add("Cast", [name], to=TensorProto.FLOAT)
            if len(signature.inputs) > 1:
                name = self.add("Reshape", [name, self.integers((-1, slot.size))])
            parts.append(name)
        self.names[0] = parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=1)
        return declared

    def _read_sizes(self, inputs: Sequence[str]) -> None:
        dynamic = self.graph.dynamic
        self._sizes = None if dynamic is None else SizeWriter(self, dynamic, inputs)

    def write(self, value: int, node: Node) -> None:
        """Write one node; it may take several of ONNX's."""
        inputs = [self.names[source] for source in node.inputs]
        last = value == self.graph.output and self.sized.signature is None
        name = "output" if last else f"{value}:{node.path or node.op}"
        self.names[value] = name
        own = {role: self._own_tensor(t, role) for role, t in node.tensors.items()}
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
        signature, result = self.sized.signature, self.names[self.graph.output]
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
        result = name or f":{len(self.nodes)}:{op}"
        self.nodes.append(helper.make_node(op, list(inputs), [result], result, **attrs))
        return result

    def add_several(
        self, op: str, inputs: Sequence[str], names: Sequence[str], **attrs: Any
    ) -> None:
        """Write a node of ONNX with several results."""
        self.nodes.append(helper.make_node(op, list(inputs), list(names), names[0], **attrs))

    def tensor(self, array: NDArray[Any], name: str) -> str:
        """Add a tensor that the network does not have and return its name.

        It begins with a colon, as no name in a state dict does.
        """
        self.tensors[f":{name}"] = array
        return f":{name}"

    def _own_tensor(self, name: str, role: str) -> str:
        """Add a tensor of the network; inputs and outputs of the same name keep it."""
        unique = f"{name}:{role}" if name in self._declared else name
        self.tensors[unique] = self.graph.tensors[name]
        return unique

    def integers(self, values: Sequence[Any]) -> str:
        """Add a list of integers, which may be computed from sizes, and return its name."""
        if varies(tuple(values)) and self._sizes is not None:
            parts = [
                self._sizes.write(v) if isinstance(v, Size) else self.integers([v]) for v in values
            ]
            return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=0)
        return self.tensor(np.array(values, np.int64), f"integers.{'.'.join(map(str, values))}")

    def scalar(self, value: Any, name: str) -> str:
        """Add a float32, which may be computed from sizes, and return its name."""
        if isinstance(value, Size) and self._sizes is not None:
            exact = self._sizes.write(value, as_float=True)
            return self.add("Squeeze", [self.add("Cast", [exact], to=TensorProto.FLOAT)])
        return self.tensor(np.array(value, np.float32), name)

    def range(self, count: Any) -> str:
        """Add the integers from 0 to a count, which may be computed from sizes."""
        if not isinstance(count, Size):
            return self.integers(range(count))
        zero, one = (self.tensor(np.array(i, np.int64), f"integer.{i}") for i in (0, 1))
        return self.add("Range", [zero, self.add("Squeeze", [self.integers([count])]), one])

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
    return helper.make_tensor_value_info(name, kind, [_dimension(size) for size in shape])


def _dimension(size: Any) -> int | str:
    if size < 0:
        return "batch" if size == -1 else f"{_dimension(-size)} batch"
    return written(size.expression) if isinstance(size, Size) else int(size)
