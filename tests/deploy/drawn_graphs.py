"""Graphs written by hand, and drawn at random."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.shapes import infer_shape


class Sketch:
    """Writes a graph down; every call adds a node and returns the number of its value."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.shapes: list[tuple[int, ...]] = [(-1, *shape)]
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(seed)

    def add(self, op: str, *inputs: int, tensors: Any = None, **attrs: Any) -> int:
        """Tensors by role: an array, or the name of one that is there."""
        number = len(self.nodes)
        names = {}
        for role, tensor in (tensors or {}).items():
            names[role] = tensor if isinstance(tensor, str) else f"{number}.{role}"
            if not isinstance(tensor, str):
                self.tensors[names[role]] = np.asarray(tensor, np.float32)
        shape = infer_shape(
            op,
            [self.shapes[i] for i in inputs],
            {role: self.tensors[name].shape for role, name in names.items()},
            attrs,
        )
        self.nodes.append(Node(op, inputs, shape, attrs, names, str(number)))
        self.shapes.append(shape)
        return number + 1

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def conv(
        self,
        x: int,
        outputs: int,
        kernel: int = 3,
        *,
        padding: int = 0,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        dead: Any = (),
        unread: Any = (),
        bias: Any = None,
        weight: Any = None,
    ) -> int:
        """Filters ``dead`` are zero, as is what all of them read of the inputs ``unread``."""
        if weight is None:
            weight = self.normal(outputs, self.shapes[x][1] // groups, kernel, kernel)
            weight[list(dead)] = 0
            weight[:, list(unread)] = 0
        tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
        return self.add(
            "conv2d", x, tensors=tensors, stride=(stride,) * 2, padding=(padding,) * 4,
            dilation=(dilation,) * 2, groups=groups,
        )  # fmt: skip

    def linear(
        self, x: int, outputs: int, *, dead: Any = (), unread: Any = (), bias: Any = None
    ) -> int:
        weight = self.normal(outputs, self.shapes[x][-1])
        weight[list(dead)] = 0
        weight[:, list(unread)] = 0
        tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
        return self.add("linear", x, tensors=tensors)

    def norm(self, x: int, *, gamma: Any = None, beta: Any = None, plain: bool = False) -> int:
        """BatchNorm; ``plain`` has mean 0 and variance 1."""
        size = self.shapes[x][1]
        own = {
            "running_mean": np.zeros(size) if plain else self.normal(size),
            "running_var": np.ones(size) if plain else 0.5 + self.rng.random(size),
            "weight": self.normal(size) if gamma is None else gamma,
            "bias": self.normal(size) if beta is None else beta,
        }
        return self.add("batch_norm", x, tensors=own, eps=1e-5)

    def pool(self, op: str, x: int, kernel: int = 2, padding: int = 0, **attrs: Any) -> int:
        attrs = {"ceil_mode": 0} | attrs
        attrs |= {"dilation": (1, 1)} if op == "max_pool2d" else {}
        attrs |= {"count_include_pad": 1} if op == "avg_pool2d" and len(attrs) < 2 else {}
        return self.add(
            op, x, kernel=(kernel,) * 2, stride=(kernel,) * 2, padding=(padding,) * 2, **attrs
        )

    def flatten(self, x: int) -> int:
        return self.add("reshape", x, size=(-1, int(np.prod(self.shapes[x][1:]))))

    def constant(self, value: Any) -> int:
        return self.add("constant", tensors={"value": value})

    def cut(self, x: int, start: int, end: int) -> int:
        return self.add("slice", x, dim=1, start=start, end=end, step=1)

    def graph(self) -> Graph:
        return Graph(self.shapes[0], tuple(self.nodes), len(self.nodes), self.tensors)


ACTIVATIONS: dict[str, dict[str, Any]] = {
    "relu": {}, "relu6": {}, "leaky_relu": {"slope": 0.1}, "elu": {"alpha": 1.0},
    "gelu": {"tanh": 0}, "silu": {}, "sigmoid": {}, "tanh": {}, "hardswish": {},
    "hardsigmoid": {},
}  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Small networks with dead filters, unread channels, residuals, groups and pools."""
    s = Sketch(draw(st.integers(1, 3)), 6, 6, seed=draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]))
    quiet = draw(st.sampled_from([0.0, 0.5, 1.0]))  # of biases that are zero

    def some(size: int) -> np.ndarray:
        return np.flatnonzero(s.rng.random(size) < share)

    def bias(size: int) -> np.ndarray | None:
        values = s.normal(size) * (s.rng.random(size) >= quiet)
        return values if draw(st.booleans()) else None

    def convolution(x: int, outputs: int, groups: int = 1) -> int:
        kernel, padding = draw(st.sampled_from([(1, 0), (3, 1), (3, 0), (2, 1)]))
        height, width = s.shapes[x][2:]
        if min(height, width) + 2 * padding < kernel:
            kernel, padding = 1, 0
        inputs = s.shapes[x][1]
        weight = s.normal(outputs, inputs // groups, kernel, kernel)
        weight[s.rng.random(weight.shape) < share] = 0
        weight[some(outputs)] = 0
        weight[:, some(inputs // groups)] = 0
        x = s.conv(x, outputs, weight=weight, padding=padding, groups=groups, bias=bias(outputs))
        if draw(st.booleans()):
            gamma, beta = s.normal(outputs), s.normal(outputs)
            gamma[some(outputs)] = 0
            beta[s.rng.random(outputs) < quiet] = 0
            x = s.norm(x, gamma=gamma, beta=beta, plain=draw(st.booleans()))
        return x

    def activation(x: int) -> int:
        op = draw(st.sampled_from(sorted(ACTIVATIONS)))
        return s.add(op, x, **ACTIVATIONS[op])

    x = activation(convolution(0, 2 * draw(st.integers(1, 3))))
    for _ in range(draw(st.integers(1, 4))):
        channels, height, width = s.shapes[x][1:]
        block = draw(st.sampled_from(
            ["plain", "residual", "cat", "grouped", "depthwise", "shuffle", "pool", "gate",
             "split", "constant", "pad", "mix"]
        ))  # fmt: skip
        if block == "plain":
            x = activation(convolution(x, 2 * draw(st.integers(1, 3))))
        elif block == "residual":
            y = activation(convolution(x, 4))
            weight = s.normal(channels, 4, 1, 1)
            weight[some(channels)] = 0
            if s.shapes[y][2:] != (height, width):
                y = s.add("upsample_nearest", y, output=(height, width))
            y = s.conv(y, channels, weight=weight, bias=bias(channels))
            x = s.add(draw(st.sampled_from(["add", "sub", "mul"])), *draw(st.permutations([x, y])))
        elif block == "cat":
            y = activation(convolution(x, 3))
            if s.shapes[y][2:] != (height, width):
                y = s.add("upsample_bilinear", y, output=(height, width), align_corners=0)
            x = s.add("cat", *draw(st.permutations([x, y, x][: draw(st.integers(2, 3))])), dim=1)
            if s.shapes[x][1] % 2:
                x = s.cut(x, 1, s.shapes[x][1])
        elif block == "grouped":
            x = activation(convolution(x, draw(st.sampled_from([2, 4])), groups=2))
        elif block == "depthwise":
            x = activation(convolution(x, channels * draw(st.integers(1, 2)), groups=channels))
        elif block == "shuffle":
            x = s.add("reshape", x, size=(-1, 2, channels // 2, height, width))
            x = s.add("permute", x, dims=(0, 2, 1, 3, 4))
            x = s.add("reshape", x, size=(-1, channels, height, width))
        elif block == "pool" and min(height, width) > 1:
            op = draw(st.sampled_from(["max_pool2d", "avg_pool2d"]))
            include = {"count_include_pad": draw(st.integers(0, 1))} if op[0] == "a" else {}
            ceil = draw(st.integers(0, 1))
            x = s.pool(op, x, 2, draw(st.integers(0, 1)), ceil_mode=ceil, **include)
        elif block == "gate":
            y = s.add("mean", x, dims=(2, 3), keepdim=1)
            weight = s.normal(channels, channels, 1, 1)
            weight[some(channels)] = 0
            y = s.add("hardsigmoid", s.conv(y, channels, weight=weight, bias=bias(channels)))
            x = s.add("mul", x, y)
        elif block == "split":
            middle = channels // 2
            x = s.add("add", s.cut(x, 0, middle), s.cut(x, middle, 2 * middle))
            x = activation(convolution(x, 4))
        elif block == "constant":
            value = s.normal(channels, 1, 1) * (s.rng.random((channels, 1, 1)) >= share)
            op = draw(st.sampled_from(["add", "sub", "mul"]))
            x = s.add(op, x, s.constant(value))
        elif block == "pad":
            x = s.add("pad", x, padding=(1, 0, 0, 1), value=draw(st.sampled_from([0.0, 0.5])))
        elif block == "mix":
            x = s.add("permute", x, dims=(0, 2, 3, 1))
            if draw(st.booleans()):
                x = s.add("layer_norm", x, dims=1, eps=1e-5)
            weight = some(channels)
            x = s.linear(x, 4, dead=some(4), unread=weight, bias=bias(4))
            x = s.add("permute", x, dims=(0, 3, 1, 2))
    end = draw(st.sampled_from(["flatten", "mean", "nothing", "softmax"]))
    if end in ("flatten", "softmax"):
        x = s.flatten(x)
        x = s.linear(x, 3, unread=some(s.shapes[x][-1]), bias=s.normal(3))
    if end == "mean":
        x = s.add("mean", x, dims=(2, 3), keepdim=0)
        x = s.linear(x, 3, unread=some(s.shapes[x][-1]))
    if end == "softmax":
        x = s.add("softmax", x, dim=1)
    return s.graph()
