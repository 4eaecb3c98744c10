"""What every operator of a graph is in ONNX."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, helper, numpy_helper

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import Shape

Attrs = Mapping[str, Any]

_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hardswish": "HardSwish",
          "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}  # fmt: skip


def onnx_graph(graph: Graph) -> GraphProto:
    """Write a graph in ONNX; tensors keep their names, the batch is called ``batch``.

    Args:
        graph: As captured, not lowered.

    Returns:
        A graph from ``input`` to ``output``.

    Raises:
        ValueError: If there is a node that only lowered graphs have.
    """
    writer = _Writer(graph)
    for number, node in enumerate(graph.nodes):
        writer.write(number + 1, node)
    result = writer.names[graph.output]
    if result == "input" or graph.nodes[graph.output - 1].op in ("constant", "dropout"):
        writer.add("Identity", [result], "output")
    ends = [
        helper.make_tensor_value_info(name, 1, ["batch", *shape[1:]])
        for name, shape in (("input", graph.shape), ("output", graph.shapes[graph.output]))
    ]
    initializers = [numpy_helper.from_array(a, name) for name, a in writer.tensors.items()]
    return helper.make_graph(writer.nodes, "dirprune", ends[:1], ends[1:], initializers)


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.shapes = graph, graph.shapes
        self.nodes: list[Any] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.names = {0: "input"}

    def write(self, value: int, node: Node) -> None:
        """Write one node; it may take several of ONNX's."""
        inputs = [self.names[source] for source in node.inputs]
        if node.op == "dropout":
            self.names[value] = inputs[0]
            return
        name = "output" if value == self.graph.output else f"{value}:{node.path or node.op}"
        self.names[value] = name
        own = {role: self.tensor(self.graph.tensors[t], t) for role, t in node.tensors.items()}
        if node.op == "constant":
            self.names[value] = own["value"]
            return
        attrs: Attrs = node.attrs
        if "scalar" in attrs:
            inputs.append(self.tensor(np.array(attrs["scalar"], np.float32), f"{name}.scalar"))
            inputs = inputs[::-1] if attrs.get("reversed") else inputs
        shape = self.shapes[node.inputs[0]]
        match node.op:
            case op if op in _PLAIN:
                self.add(_PLAIN[op], inputs, name)
            case "conv2d":
                top, bottom, left, right = attrs["padding"]
                inputs += [own[role] for role in ("weight", "bias") if role in own]
                self.add("Conv", inputs, name, pads=[top, left, bottom, right],
                         strides=attrs["stride"], dilations=attrs["dilation"],
                         group=attrs["groups"])  # fmt: skip
            case "linear" if len(shape) == 2:
                inputs += [own[role] for role in ("weight", "bias") if role in own]
                self.add("Gemm", inputs, name, transB=1)
            case "linear":
                turned = self.add("Transpose", [own["weight"]], perm=[1, 0])
                product = [inputs[0], turned]
                if "bias" in own:
                    self.add("Add", [self.add("MatMul", product), own["bias"]], name)
                else:
                    self.add("MatMul", product, name)
            case "batch_norm":
                fills = {"weight": 1.0, "bias": 0.0}
                for role, fill in fills.items():
                    if role not in own:
                        full = np.full(shape[1], fill, np.float32)
                        own[role] = self.tensor(full, f"{name}.{role}")
                order = ("weight", "bias", "running_mean", "running_var")
                inputs += [own[role] for role in order]
                self.add("BatchNormalization", inputs, name, epsilon=attrs["eps"])
            case "relu6":
                bounds = [self.tensor(np.array(b, np.float32), f"clip.{b}") for b in (0.0, 6.0)]
                self.add("Clip", inputs + bounds, name)
            case "leaky_relu":
                self.add("LeakyRelu", inputs, name, alpha=attrs["slope"])
            case "elu":
                self.add("Elu", inputs, name, alpha=attrs["alpha"])
            case "gelu":
                self.add("Gelu", inputs, name, approximate="tanh" if attrs["tanh"] else "none")
            case "silu":
                self.add("Mul", [inputs[0], self.add("Sigmoid", inputs)], name)
            case "hardsigmoid":
                self.add("HardSigmoid", inputs, name, alpha=1 / 6, beta=0.5)
            case "softmax":
                self.add("Softmax", inputs, name, axis=attrs["dim"])
            case "cat":
                self.add("Concat", inputs, name, axis=attrs["dim"])
            case "slice":
                part = attrs["start"], attrs["end"], attrs["step"]
                self.slice(inputs[0], attrs["dim"], *part, name=name)
            case "max_pool2d" | "avg_pool2d":
                self.pool(node, inputs[0], shape, name)
            case "adaptive_avg_pool2d":
                self.adaptive_average(attrs["output"], inputs[0], shape, name)
            case "adaptive_max_pool2d":
                self.adaptive_max(attrs["output"], inputs[0], shape, name)
            case "mean":
                axes = self.integers(attrs["dims"])
                self.add("ReduceMean", [inputs[0], axes], name, keepdims=attrs["keepdim"])
            case "reshape":
                self.add("Reshape", [inputs[0], self.integers(attrs["size"])], name)
            case "permute":
                self.add("Transpose", inputs, name, perm=attrs["dims"])
            case "pad":
                self.pad(inputs[0], attrs["padding"], attrs["value"], name)
            case "upsample_nearest":
                self.resize(inputs[0], attrs["output"], name, mode="nearest",
                            nearest_mode="floor",
                            coordinate_transformation_mode="asymmetric")  # fmt: skip
            case "upsample_bilinear":
                corners = "align_corners" if attrs["align_corners"] else "half_pixel"
                self.resize(inputs[0], attrs["output"], name, mode="linear",
                            coordinate_transformation_mode=corners)  # fmt: skip
            case "layer_norm":
                dims = attrs["dims"]
                if "weight" not in own:
                    ones = np.ones(shape[-dims:], np.float32)
                    own["weight"] = self.tensor(ones, f"{name}.weight")
                inputs += [own[role] for role in ("weight", "bias") if role in own]
                self.add("LayerNormalization", inputs, name, axis=-dims, epsilon=attrs["eps"])
            case op:
                raise ValueError(f"{op} is of lowered graphs only: export what was captured")

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attrs: Any) -> str:
        """Write a node of ONNX and return the name of its result."""
        result = name or f"{len(self.nodes)}:{op}"
        self.nodes.append(helper.make_node(op, list(inputs), [result], result, **attrs))
        return result

    def tensor(self, array: NDArray[Any], name: str) -> str:
        self.tensors[name] = array
        return name

    def integers(self, values: Sequence[int]) -> str:
        return self.tensor(np.array(values, np.int64), f"integers.{'.'.join(map(str, values))}")

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1, name: str = "") -> str:
        places = [self.integers([v]) for v in (start, end, axis, step)]
        return self.add("Slice", [x, *places], name)

    def pad(self, x: str, padding: Sequence[int], value: float, name: str = "") -> str:
        top, bottom, left, right = padding
        pads = self.integers([0, 0, top, left, 0, 0, bottom, right])
        filler = self.tensor(np.array(value, np.float32), f"pad.{value}")
        return self.add("Pad", [x, pads, filler], name)

    def resize(self, x: str, size: Shape, name: str, **attrs: Any) -> None:
        self.add("Resize", [x, "", "", self.integers(size)], name, axes=[2, 3], **attrs)

    def pool(self, node: Node, x: str, shape: Shape, name: str) -> None:
        """Pool; windows that hang over the edge get padding of their own instead of a mode."""
        attrs: Attrs = node.attrs
        low: list[int] = list(attrs["padding"])
        dilations = attrs.get("dilation", (1, 1))
        high = []
        for dim in range(2):
            span = (attrs["kernel"][dim] - 1) * dilations[dim] + 1
            last = (node.shape[2 + dim] - 1) * attrs["stride"][dim] + span
            high.append(max(low[dim], last - low[dim] - shape[2 + dim]))
        own: dict[str, Any] = {"dilations": dilations} if node.op == "max_pool2d" else {}
        if attrs.get("count_include_pad"):
            if high == low:
                own["count_include_pad"] = 1
            else:  # what is counted ends with the declared padding
                x = self.pad(x, (low[0], low[0], low[1], low[1]), 0.0)
                low, high = [0, 0], [h - p for h, p in zip(high, low)]
        if any(pad >= size for pad, size in zip(high, attrs["kernel"])):  # runtimes refuse it
            x = self.pad(x, (low[0], high[0], low[1], high[1]), -np.inf)
            low, high = [0, 0], [0, 0]
        op = "MaxPool" if node.op == "max_pool2d" else "AveragePool"
        self.add(op, [x], name, kernel_shape=attrs["kernel"], strides=attrs["stride"],
                 pads=[*low, *high], **own)  # fmt: skip

    def adaptive_average(self, output: Shape, x: str, shape: Shape, name: str) -> None:
        """Average over windows; where their sizes differ, as a product with two matrices."""
        if output == (1, 1):
            self.add("GlobalAveragePool", [x], name)
        elif all(size % count == 0 for size, count in zip(shape[2:], output)):
            kernel = [size // count for size, count in zip(shape[2:], output)]
            self.add("AveragePool", [x], name, kernel_shape=kernel, strides=kernel)
        else:
            rows, columns = (
                self.tensor(_averages(size, count), f"{name}.{axis}")
                for axis, size, count in zip("hw", shape[2:], output)
            )
            turned = self.add("Transpose", [columns], perm=[1, 0])
            self.add("MatMul", [rows, self.add("MatMul", [x, turned])], name)

    def adaptive_max(self, output: Shape, x: str, shape: Shape, name: str) -> None:
        """Take the largest of every window, first along the height, then along the width."""
        for axis, size, count in zip((2, 3), shape[2:], output):
            axes = self.integers([axis])
            parts = [
                self.add("ReduceMax", [self.slice(x, axis, start, end), axes], keepdims=1)
                for start, end in _windows(size, count)
            ]
            x = self.add("Concat", parts, name if axis == 3 else "", axis=axis)


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, ceil((i + 1) * size / count)) for i in range(count)]


def _averages(size: int, count: int) -> NDArray[np.float32]:
    """The matrix with shape (count, size) that averages over each window."""
    matrix = np.zeros((count, size), np.float32)
    for row, (start, end) in zip(matrix, _windows(size, count)):
        row[start:end] = 1 / (end - start)
    return matrix
