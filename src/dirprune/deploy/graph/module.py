"""A graph as an ordinary module of torch: runs, trains on, saves its state, exports."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import ACTIVATIONS

_Operation = Callable[[list[Tensor], Mapping[str, Tensor], Mapping[str, Any], bool], Tensor]


class GraphNet(nn.Module):
    """Runs a graph with torch's own operators.

    The state dict has the graph's tensors under their names. In training mode BatchNorm uses and
    follows the statistics of the batch and dropout drops single elements, as anywhere in torch; a
    new GraphNet is in evaluation mode, as the graph was when it was captured.

    Args:
        graph: As captured, or lowered. Its arrays are copied.

    Raises:
        ValueError: If its tensors have names that no module can have together.

    Example:
        >>> from dirprune.deploy import capture
        >>> net = GraphNet(capture(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.ones(2, 3)))
        >>> sorted(net.state_dict()), net(torch.ones(5, 3)).shape
        (['0.bias', '0.weight'], torch.Size([5, 2]))
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._shape, self._nodes, self._output = graph.shape, graph.nodes, graph.output
        self._names = tuple(graph.tensors)
        trained = {
            name
            for node in graph.nodes
            for role, name in node.tensors.items()
            if not role.startswith("running_") and node.attrs.get("trained", node.op != "constant")
        }
        for name, array in graph.tensors.items():
            _register(self, name, torch.from_numpy(array.copy()), name in trained)
        last = {value: number for number, node in enumerate(graph.nodes) for value in node.inputs}
        self._done: list[list[int]] = [[] for _ in graph.nodes]  # values nobody reads any more
        for value, number in last.items():
            if value != graph.output:
                self._done[number].append(value)
        self.eval()

    @property
    def graph(self) -> Graph:
        """The graph with a copy of the module's present tensors."""
        tensors = {
            name: _find(self, name).detach().to("cpu", torch.float32, copy=True).numpy()
            for name in self._names
        }
        return Graph(self._shape, self._nodes, self._output, tensors)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network.

        Args:
            x: With the graph's input shape and any batch size.

        Returns:
            The output, batch first.

        Raises:
            ValueError: If the shape is another one.
        """
        if x.dim() == 0 or x.shape[1:] != self._shape[1:]:
            raise ValueError(
                f"this network takes inputs with shape (batch, "
                f"{', '.join(map(str, self._shape[1:]))}), got {tuple(x.shape)}"
            )
        values: list[Tensor | None] = [x]
        for node, done in zip(self._nodes, self._done):
            inputs: Any = [values[value] for value in node.inputs]
            tensors = {role: _find(self, name) for role, name in node.tensors.items()}
            values.append(run_node(node, inputs, tensors, self.training))
            for value in done:
                values[value] = None
        output = values[self._output]
        if output is None:
            raise RuntimeError("the output was freed")
        return output


def run_node(
    node: Node, inputs: list[Tensor], tensors: Mapping[str, Tensor], training: bool = False
) -> Tensor:
    """Compute one node.

    Args:
        node: Which.
        inputs: The values that it reads.
        tensors: Its tensors by role; running statistics are updated in place in training.
        training: Whether BatchNorm and dropout act as in training.

    Returns:
        Its value.
    """
    y = _OPERATIONS[node.op](inputs, tensors, node.attrs, training)
    if node.op not in ("conv2d", "linear", "affine"):
        return y
    if len(inputs) > 1:
        y = y + inputs[1]
    name = ACTIVATIONS[int(_number(node.attrs.get("activation", 0)))]
    return _activate(name, y, _number(node.attrs.get("activation_parameter", 0.0)))


def _activate(name: str, y: Tensor, parameter: float) -> Tensor:
    if name == "none":
        return y
    if name in ("gelu", "gelu_tanh"):
        return F.gelu(y, approximate="tanh" if name == "gelu_tanh" else "none")
    return _OPERATIONS[name]([y], {}, {"slope": parameter, "alpha": parameter}, False)


def _number(value: Any) -> float:
    return float(value)


def _register(root: nn.Module, name: str, tensor: Tensor, trained: bool) -> None:
    *path, last = name.split(".")
    try:
        for part in path:
            if part not in root._modules:
                root.add_module(part, nn.Module())
            root = root.get_submodule(part)
        if trained:
            root.register_parameter(last, nn.Parameter(tensor))
        else:
            root.register_buffer(last, tensor)
    except (KeyError, AttributeError) as error:
        raise ValueError(f"a module cannot have a tensor {name}: {error}") from None


def _find(root: nn.Module, name: str) -> Tensor:
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _conv2d(x: list[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any], _: bool) -> Tensor:
    top, bottom, left, right = a["padding"]
    y, padding = x[0], (top, left)
    if (top, left) != (bottom, right):
        y, padding = F.pad(y, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        y, t["weight"], t.get("bias"), a["stride"], padding, a["dilation"], a["groups"]
    )


def _batch_norm(
    x: list[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any], training: bool
) -> Tensor:
    return F.batch_norm(
        x[0], t["running_mean"], t["running_var"], t.get("weight"), t.get("bias"), training,
        a.get("momentum", 0.1), a["eps"],
    )  # fmt: skip


def _affine(x: list[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any], _: bool) -> Tensor:
    shape = (-1,) + (1,) * (x[0].dim() - 2)
    return x[0] * t["scale"].reshape(shape) + t["shift"].reshape(shape)


def _binary(operation: Callable[[Any, Any], Any]) -> _Operation:
    def run(x: list[Tensor], _: Mapping[str, Tensor], a: Mapping[str, Any], __: bool) -> Tensor:
        second = x[1] if len(x) > 1 else a["scalar"]
        pair = (second, x[0]) if a.get("reversed") else (x[0], second)
        return operation(*pair)  # type: ignore[no-any-return]

    return run


def _slice(x: list[Tensor], _: Mapping[str, Tensor], a: Mapping[str, Any], __: bool) -> Tensor:
    return x[0][(slice(None),) * a["dim"] + (slice(a["start"], a["end"], a["step"]),)]


def _pad(x: list[Tensor], _: Mapping[str, Tensor], a: Mapping[str, Any], __: bool) -> Tensor:
    top, bottom, left, right = a["padding"]
    return F.pad(x[0], (left, right, top, bottom), value=a["value"])


def _max_pool2d(
    x: list[Tensor], _: Mapping[str, Tensor], a: Mapping[str, Any], __: bool
) -> Tensor:
    return F.max_pool2d(
        x[0], a["kernel"], a["stride"], a["padding"], a["dilation"], bool(a["ceil_mode"])
    )


def _avg_pool2d(
    x: list[Tensor], _: Mapping[str, Tensor], a: Mapping[str, Any], __: bool
) -> Tensor:
    flags = bool(a["ceil_mode"]), bool(a["count_include_pad"])
    return F.avg_pool2d(x[0], a["kernel"], a["stride"], a["padding"], *flags)


def _bilinear(x: list[Tensor], _: Mapping[str, Tensor], a: Mapping[str, Any], __: bool) -> Tensor:
    corners = bool(a["align_corners"])
    return F.interpolate(x[0], a["output"], mode="bilinear", align_corners=corners)


def _layer_norm(x: list[Tensor], t: Mapping[str, Tensor], a: Mapping[str, Any], _: bool) -> Tensor:
    shape = x[0].shape[-a["dims"] :]
    return F.layer_norm(x[0], shape, t.get("weight"), t.get("bias"), a["eps"])


_OPERATIONS: Mapping[str, _Operation] = {
    "conv2d": _conv2d,
    "linear": lambda x, t, a, _: F.linear(x[0], t["weight"], t.get("bias")),
    "batch_norm": _batch_norm,
    "affine": _affine,
    "relu": lambda x, t, a, _: F.relu(x[0]),
    "relu6": lambda x, t, a, _: F.relu6(x[0]),
    "leaky_relu": lambda x, t, a, _: F.leaky_relu(x[0], a["slope"]),
    "elu": lambda x, t, a, _: F.elu(x[0], a["alpha"]),
    "gelu": lambda x, t, a, _: F.gelu(x[0], approximate="tanh" if a["tanh"] else "none"),
    "silu": lambda x, t, a, _: F.silu(x[0]),
    "sigmoid": lambda x, t, a, _: x[0].sigmoid(),
    "tanh": lambda x, t, a, _: x[0].tanh(),
    "hardswish": lambda x, t, a, _: F.hardswish(x[0]),
    "hardsigmoid": lambda x, t, a, _: F.hardsigmoid(x[0]),
    "softmax": lambda x, t, a, _: x[0].softmax(a["dim"]),
    "add": _binary(lambda a, b: a + b),
    "sub": _binary(lambda a, b: a - b),
    "mul": _binary(lambda a, b: a * b),
    "div": _binary(lambda a, b: a / b),
    "constant": lambda x, t, a, _: t["value"],
    "cat": lambda x, t, a, _: torch.cat(x, a["dim"]),
    "slice": _slice,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": lambda x, t, a, _: F.adaptive_avg_pool2d(x[0], a["output"]),
    "adaptive_max_pool2d": lambda x, t, a, _: F.adaptive_max_pool2d(x[0], a["output"]),
    "mean": lambda x, t, a, _: x[0].mean(a["dims"], bool(a["keepdim"])),
    "reshape": lambda x, t, a, _: x[0].reshape(x[0].shape[0], *a["size"][1:]),
    "permute": lambda x, t, a, _: x[0].permute(a["dims"]),
    "pad": _pad,
    "upsample_nearest": lambda x, t, a, _: F.interpolate(x[0], a["output"], mode="nearest"),
    "upsample_bilinear": _bilinear,
    "layer_norm": _layer_norm,
    "dropout": lambda x, t, a, training: F.dropout(x[0], a["p"], training),
}
