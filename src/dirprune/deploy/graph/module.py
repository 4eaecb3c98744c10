"""A graph as an ordinary torch module, which can be run, trained, saved and exported."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import ACTIVATIONS, Shape
from dirprune.deploy.graph.signature import Kind, Signature, pack, rebuild, split

_DTYPES: Mapping[Kind, torch.dtype] = {"int": torch.int64, "bool": torch.bool}


class _Plan(NamedTuple):
    """The attributes of a GraphNet except its tensors, outside of the names of submodules."""

    shape: Shape
    nodes: tuple[Node, ...]
    output: int
    signature: Signature | None
    names: tuple[str, ...]
    finished: tuple[tuple[int, ...], ...]  # by node: the values that nothing reads afterwards
    dynamic: Dynamic | None
    recent: "dict[Shape, _Plan]"  # at sizes of the last calls, if sizes vary


class GraphNet(nn.Module):
    """Runs a graph with torch's own operators.

    The state dict has the graph's tensors under their names. In training mode BatchNorm uses the
    statistics of the batch and updates its running statistics, and dropout drops elements, as in
    torch. A new GraphNet is in evaluation mode, like the captured graph.

    Args:
        graph: A captured or lowered graph. Its arrays are copied.

    Raises:
        ValueError: If the names of its tensors are not possible in one module.

    Example:
        >>> from dirprune.deploy import capture
        >>> net = GraphNet(capture(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.ones(2, 3)))
        >>> sorted(net.state_dict()), net(torch.ones(5, 3)).shape
        (['0.bias', '0.weight'], torch.Size([5, 2]))
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        trained = {
            name
            for node in graph.nodes
            for role, name in node.tensors.items()
            if role not in _STATISTICS and node.attrs.get("trained", node.op != "constant")
        }
        for name, array in graph.tensors.items():
            _register(self, name, torch.from_numpy(array.copy()), name in trained)
        # Not through nn.Module, where a submodule of the network may have any name.
        self.__dict__[_PLAN] = _plan(graph)
        self.eval()

    @property
    def graph(self) -> Graph:
        """The graph with a copy of the module's current tensors."""
        plan = self._plan()
        tensors = {
            name: _find(self, name).detach().to("cpu", torch.float32, copy=True).numpy()
            for name in plan.names
        }
        return Graph(plan.shape, plan.nodes, plan.output, tensors, plan.signature, plan.dynamic)

    def forward(self, x: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Args:
            x: The first argument of the captured network, with any batch size; for a network with
                a single input, a tensor with the graph's input shape.
            args: Further arguments.
            kwargs: Arguments by name.

        Returns:
            The result of the captured network; a dataclass is returned as a dictionary.

        Raises:
            TypeError: If the arguments are not those of the network.
            ValueError: If a shape differs.
        """
        signature = self._plan().signature
        if signature is None:
            x = next(iter(kwargs.values())) if x is None and kwargs else x
            return self.run(self._converted(x) if isinstance(x, Tensor) else x)
        args = args if x is None else (x, *args)
        leaves = [self._converted(leaf) for leaf in signature.leaves(args, kwargs)]
        plan = self._plan_at([tuple(leaf.shape) for leaf in leaves])
        if plan.signature is None:
            raise RuntimeError("the signature was lost")
        outputs = split(plan.signature, self._run(plan, pack(plan.signature, leaves, torch.cat)))
        kinds = [slot.kind for slot in plan.signature.outputs]
        converted = [y.to(_DTYPES.get(kind, y.dtype)) for y, kind in zip(outputs, kinds)]
        return rebuild(plan.signature.result, converted)

    def _converted(self, x: Tensor) -> Tensor:
        """The input in the network's precision, or in its own if the network has no weights."""
        own = (t.dtype for t in (*self.parameters(), *self.buffers()) if t.is_floating_point())
        fallback = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return x.to(next(own, fallback))

    def run(self, x: Tensor) -> Tensor:
        """Run the graph itself.

        Args:
            x: With the graph's input shape and any batch size; if sizes vary and there are
                several inputs, at the sizes that the graph states.

        Returns:
            The graph's output, the batch first.

        Raises:
            ValueError: If the shape is another one.
        """
        plan = self._plan()
        single = plan.signature is None or len(plan.signature.inputs) == 1
        return self._run(self._plan_at([tuple(x.shape)]) if single else plan, x)

    def _run(self, plan: _Plan, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[1:] != plan.shape[1:]:
            raise ValueError(
                f"this network takes inputs with shape (batch, "
                f"{', '.join(map(str, plan.shape[1:]))}), got {tuple(x.shape)}"
            )
        values: list[Tensor | None] = [x]
        for node, finished in zip(plan.nodes, plan.finished):
            inputs: Any = [values[value] for value in node.inputs]
            tensors = {role: _find(self, name) for role, name in node.tensors.items()}
            values.append(run_node(node, inputs, tensors, self.training, x.shape[0]))
            for value in finished:
                values[value] = None
        output = values[plan.output]
        if output is None:
            raise RuntimeError("the output was freed")
        return output

    def _plan(self) -> _Plan:
        return cast(_Plan, self.__dict__[_PLAN])

    def _plan_at(self, shapes: list[Shape]) -> _Plan:
        """The plan for inputs of these shapes, kept for the next calls."""
        plan = self._plan()
        if plan.dynamic is None:
            return plan
        sizes = plan.dynamic.sizes(shapes)
        found = plan.recent.pop(sizes, None)
        if found is None:
            tensors = {
                name: np.broadcast_to(np.float32(0), tuple(_find(self, name).shape))
                for name in plan.names  # only their shapes are read
            }
            whole = Graph(plan.shape, plan.nodes, plan.output, tensors, plan.signature)
            found = _plan(plan.dynamic.at(whole, sizes))
        plan.recent[sizes] = found
        for oldest in list(plan.recent)[:-_MOST_PLANS]:
            plan.recent.pop(oldest, None)
        return found


def _plan(graph: Graph) -> _Plan:
    last = {value: number for number, node in enumerate(graph.nodes) for value in node.inputs}
    finished: list[list[int]] = [[] for _ in graph.nodes]
    for value, number in last.items():
        if value != graph.output:
            finished[number].append(value)
    return _Plan(
        graph.shape, graph.nodes, graph.output, graph.signature, tuple(graph.tensors),
        tuple(map(tuple, finished)), graph.dynamic, {},
    )  # fmt: skip


_PLAN = "dirprune.plan"
_MOST_PLANS = 8
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def run_node(
    node: Node,
    inputs: list[Tensor],
    tensors: Mapping[str, Tensor],
    training: bool = False,
    batch: int = 1,
) -> Tensor:
    """Compute one node.

    Args:
        node: Which.
        inputs: The values that it reads.
        tensors: Its tensors by role; running statistics are updated in place in training.
        training: Whether BatchNorm and dropout act as in training.
        batch: The size of the batch.

    Returns:
        Its value.
    """
    record = OPERATORS[node.op]
    more: dict[str, int] = {"training": training} if record.trains else {}
    if record.reads_batch:
        more["batch"] = batch
    y = record.run(inputs, tensors, node.attrs, **more)
    if not record.epilogue:
        return y
    if len(inputs) > 1:
        y = y + inputs[1]
    attrs: Mapping[str, Any] = node.attrs
    name = ACTIVATIONS[attrs.get("activation", 0)]
    return _activate(name, y, attrs.get("activation_parameter", 0.0))


def _activate(name: str, y: Tensor, parameter: float) -> Tensor:
    if name == "none":
        return y
    if name in ("gelu", "gelu_tanh"):
        return F.gelu(y, approximate="tanh" if name == "gelu_tanh" else "none")
    return OPERATORS[name].run([y], {}, {"slope": parameter, "alpha": parameter})


def _register(root: nn.Module, name: str, tensor: Tensor, trained: bool) -> None:
    """Put a tensor where its name says, past the names that a module itself has."""
    *path, last = name.split(".")
    for part in path:
        if part in root._parameters or part in root._buffers:
            raise ValueError(f"a module cannot have a tensor {name}: {part} is a tensor itself")
        inner = root._modules.setdefault(part, nn.Module())
        root = cast(nn.Module, inner)
    if last in root._modules or name.partition(".")[0] == "training":
        raise ValueError(f"a module cannot have a tensor {name}: {last} is taken")
    if trained:
        root._parameters[last] = nn.Parameter(tensor)
    else:
        root._buffers[last] = tensor


def _find(root: nn.Module, name: str) -> Tensor:
    *path, last = name.split(".")
    for part in path:
        root = cast(nn.Module, root._modules[part])
    own = root._parameters if last in root._parameters else root._buffers
    return cast(Tensor, own[last] if last in own else getattr(root, last))
