"""From a module to a graph, by ``torch.export``."""

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Node as FxNode
from torch.fx import map_arg

from dirprune.deploy.graph.builder import Builder, Constant, Value
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators import Shape
from dirprune.deploy.graph.translate import TRANSLATIONS

_VIEWS = {
    "alias", "chunk", "contiguous", "detach", "dropout", "expand", "feature_dropout", "flatten",
    "narrow", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "to", "transpose", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip
"""Operators whose result may be the same memory as their input."""


def capture(model: nn.Module, example_inputs: Tensor | tuple[Tensor]) -> Graph:
    """Turn a network into a graph, as it computes in evaluation mode.

    Batches may have any size afterwards; everything else about the input stays as in the example.
    What depends on parameters alone, such as a parametrized weight, is computed once.

    Args:
        model: Any module of float32 with one tensor in and one out, built of the operators of
            :data:`dirprune.deploy.graph.operators.OPERATORS`. It is left as it is.
        example_inputs: A batch of 2 or more, float32; its values do not matter.

    Returns:
        The graph; tensors are named as in the state dict, those that are shared by their first
        name, and what no module holds as ``constant.0`` and so on.

    Raises:
        ValueError: If the module cannot be captured; the message names the operator and the
            module that it came from.

    Example:
        >>> graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.ones(2, 2, 2))
        >>> [node.op for node in graph.nodes], list(graph.tensors)
        (['reshape', 'linear'], ['1.weight', '1.bias'])
    """
    x = example_inputs[0] if isinstance(example_inputs, tuple) else example_inputs
    _check_example(x, example_inputs)
    with evaluating(model), torch.no_grad():
        program = _export(model, x)
    builder = Builder((-1, *x.shape[1:]))
    values = _inputs(program, model)
    nodes = list(program.graph.nodes)
    batch = next(node.meta["val"].shape[0] for node in nodes if values.get(node) == Value(0))
    aliases = _Aliases(nodes)
    for node in nodes:
        if node.op == "call_function":
            builder.path = _path(node)
            try:
                values[node] = _translate(node, values, builder, batch, aliases)
            except ValueError as error:
                raise _refusal(node, error) from None
        elif node.op == "output":
            output = _only_output(node, values)
    return builder.finish(output)


def _check_example(x: Any, given: Any) -> None:
    if not isinstance(x, Tensor) or (isinstance(given, tuple) and len(given) != 1):
        raise ValueError("example_inputs must be one tensor, or a tuple of one: a single input")
    if x.dtype != torch.float32 or x.dim() < 1 or x.shape[0] < 2 or 0 in x.shape:
        raise ValueError(
            f"example_inputs must be a float32 batch of at least 2, got {x.dtype} with shape "
            f"{tuple(x.shape)}"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every part of a module into evaluation mode for a while.

    Args:
        model: Any.

    Yields:
        Nothing; afterwards every part is in the mode in which it was.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _export(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    try:
        batch = ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(model, (x,), dynamic_shapes=batch)
    except Exception as error:  # whatever the user's forward or the exporter may raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "you marked" in str(error).lower():
            reason = "it works for this batch size only: len(x) is fixed, x.shape[0] is not"
        raise ValueError(
            f"{type(model).__name__} cannot be exported ({reason[:300]}): save it without "
            "example_inputs to store its weights only"
        ) from error


def _inputs(program: torch.export.ExportedProgram, model: nn.Module) -> dict[FxNode, Any]:
    """Value 0 for the input, constants for parameters and buffers."""
    named = [*model.named_parameters(remove_duplicate=False),
             *model.named_buffers(remove_duplicate=False)]  # fmt: skip
    first: dict[int, str] = {}
    for name, tensor in named:
        first.setdefault(id(tensor), name)
    holders = dict(named)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    values: dict[FxNode, Any] = {}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        target = specs[node.name].target
        if target is None:
            values[node] = Value(0)
        elif target in holders:
            tensor = holders[target]
            trained = isinstance(tensor, nn.Parameter)
            values[node] = Constant(tensor.detach(), first[id(tensor)], trained)
        else:
            values[node] = Constant(program.constants[target].detach())
    return values


def _only_output(node: FxNode, values: dict[FxNode, Any]) -> Value:
    outputs = node.args[0]
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 1:
        raise ValueError(f"the module must return one tensor, it returns {_count(outputs)}")
    value = values.get(outputs[0]) if isinstance(outputs[0], FxNode) else None
    if not isinstance(value, Value):
        raise ValueError("the module must return one tensor that depends on its input")
    return value


def _count(outputs: Any) -> str:
    return f"{len(outputs)}" if isinstance(outputs, (tuple, list)) else type(outputs).__name__


class _Aliases:
    """Which results share memory, for operators that write in place."""

    def __init__(self, nodes: list[FxNode]) -> None:
        self._order = {node: i for i, node in enumerate(nodes)}
        self._root: dict[FxNode, FxNode] = {}
        self._members: dict[FxNode, list[FxNode]] = {}

    def add(self, node: FxNode, source: FxNode | None) -> None:
        root = node if source is None else self._root.get(source, source)
        self._root[node] = root
        self._members.setdefault(root, [root]).append(node)

    def read_later(self, written: FxNode, by: FxNode) -> list[FxNode]:
        """Other names of the written memory that something reads afterwards."""
        root = self._root.get(written, written)
        return [
            member
            for member in dict.fromkeys([root, *self._members.get(root, [])])
            if member not in (written, by)
            and any(self._order[user] > self._order[by] for user in member.users)
        ]


def _translate(
    node: FxNode, values: dict[FxNode, Any], builder: Builder, batch: Any, aliases: _Aliases
) -> Any:
    """What stands for a node: a value, a constant, a list of these, or None for a size."""
    if node.target is operator.getitem:
        source, index = node.args
        aliases.add(node, source)  # type: ignore[arg-type]
        return values[source][index] if values[source] is not None else None  # type: ignore
    outputs = node.meta.get("val")
    results = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    tensors = [t for t in results if isinstance(t, Tensor)]
    if not isinstance(node.target, OpOverload) or not tensors:
        return None  # sizes and assertions: the shapes of the example hold already
    name = node.target._schema.name.partition("::")[2]
    plain = name.removesuffix("_")
    arguments = _bind(node, values)
    if not any(isinstance(v, Value) for v in _flat(vars(arguments).values())):
        return _evaluate(node, values)
    if plain not in TRANSLATIONS:
        raise ValueError("a graph has nothing like it")
    if tensors[0].dtype != torch.float32:
        raise ValueError(f"its result is {tensors[0].dtype}, a graph has float32 only")
    result = TRANSLATIONS[plain](builder, arguments, [_shape(t, batch) for t in tensors])
    source = node.all_input_nodes[0]
    aliases.add(node, source if plain != name or plain in _VIEWS else None)
    if plain != name:
        _overwrite(node, source, values, result, aliases)
    return result


def _overwrite(
    node: FxNode, source: FxNode, values: dict[FxNode, Any], result: Any, aliases: _Aliases
) -> None:
    """Let the result of an operator in place stand for all names of what it wrote over."""
    before = values[source]
    late = aliases.read_later(source, node)
    if any(values.get(other) != before for other in late):
        raise ValueError("it overwrites what is read again through a view: work on a copy")
    for other in (source, *late):
        values[other] = result


def _evaluate(node: FxNode, values: dict[FxNode, Any]) -> Any:
    """Compute what depends on constants alone."""
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded in target.tags or target._schema.is_mutable:
        raise ValueError("it draws at random, or writes over a parameter")

    def value(source: FxNode) -> Any:
        if not isinstance(values.get(source), Constant):
            raise ValueError("it makes a tensor from the size of the batch")
        return values[source].tensor

    arguments = map_arg((node.args, node.kwargs), value)
    with torch.no_grad():
        result = target(*arguments[0], **arguments[1])
    return [Constant(t) for t in result] if isinstance(result, (tuple, list)) else Constant(result)


def _refusal(node: FxNode, reason: ValueError) -> ValueError:
    return ValueError(
        f"{node.target} in module {_path(node) or 'root'} cannot be captured, {reason}: replace "
        "it, or save without example_inputs to store the weights only"
    )


def _shape(
    tensor: Tensor,
    batch: Any,
) -> Shape:
    """A shape with -1 for the batch."""
    first, *rest = tensor.shape or (None,)
    if not isinstance(first, torch.SymInt) or first.node.expr != batch.node.expr:
        raise ValueError(f"its result {tuple(tensor.shape)} does not keep the batch first")
    if not all(isinstance(size, int) for size in rest):
        raise ValueError(f"its result {tuple(tensor.shape)} mixes the batch with the rest")
    return (-1, *rest)


def _path(node: FxNode) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][0])


def _flat(arguments: Iterable[Any]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, list):
            yield from _flat(argument)
        else:
            yield argument


def _bind(node: FxNode, values: dict[FxNode, Any]) -> SimpleNamespace:
    """The arguments by the names of the operator's schema, values in the place of nodes."""

    def value(argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return [value(a) for a in argument]
        return values.get(argument) if isinstance(argument, FxNode) else argument

    schema: Any = node.target._schema  # type: ignore[union-attr]
    bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    bound |= {a.name: value(v) for a, v in zip(schema.arguments, node.args)}
    bound |= {key: value(v) for key, v in node.kwargs.items()}
    return SimpleNamespace(**bound)
