"""From a module to a graph, by ``torch.export``."""

import logging
import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator as HigherOrder
from torch._ops import OpOverload
from torch.fx import Node as FxNode
from torch.fx import map_arg

from dirprune._support.wrappers import unwrap
from dirprune.deploy.graph.builder import (
    Arguments,
    BatchSize,
    Builder,
    Constant,
    Value,
    plain_dims,
)
from dirprune.deploy.graph.example import (
    Example,
    ExampleInputs,
    FlatNetwork,
    evaluating,
    kind_of,
    without_observers,
)
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.signature import Signature, Slot, pack, split

_log = logging.getLogger(__name__)

_CAPTURED = {name: f for record in OPERATORS.values() for name, f in record.captured.items()}
_TOLERANCES = {torch.float16: 0.05, torch.bfloat16: 0.2}
"""How far outputs may lie from the model's, relative to the largest; 1e-3 in single precision."""


@torch.library.custom_op("dirprune::dropout", mutates_args=())
def _dropout(x: Tensor, p: float) -> Tensor:
    """Dropout in evaluation mode, which the exporter would leave out."""
    return x.clone()


@_dropout.register_fake
def _(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x)


def capture(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """Turn a network into a graph, as it computes in evaluation mode.

    Batches may have any size afterwards; everything else about the inputs stays as in the example.
    What depends on parameters alone, such as a parametrized weight, is computed once. The network
    is run once on the example, and the graph must give the same output.

    Args:
        model: Any module built of the operators of
            :data:`dirprune.deploy.graph.operators.OPERATORS` and of what torch decomposes into
            them. It may be wrapped by DataParallel, DistributedDataParallel, AveragedModel or
            ``torch.compile``. It is left as it is. Parameters of other precisions become float32.
        example_inputs: A tensor, a tuple of positional arguments, or a dictionary of keyword
            arguments. Every tensor has the batch in dimension 0; values do not matter.

    Returns:
        The graph; tensors are named as in the state dict, those that are shared by their first
        name, and what no module holds as ``constant.0`` and so on.

    Raises:
        ValueError: If the module cannot be captured; the message names every operator that is in
            the way and the modules that it came from.

    Example:
        >>> graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.ones(2, 2, 2))
        >>> [node.op for node in graph.nodes], list(graph.tensors)
        (['reshape', 'linear'], ['1.weight', '1.bias'])
    """
    model = unwrap(model)
    example = Example(model, example_inputs)
    _say_what_is_converted(model)
    with evaluating(model), torch.no_grad():
        with without_observers(model, lambda: _run(example)) as expected:
            program = _export(example)
        graph = _Translation(program, example).graph()
        _check(graph, example, expected)
    return graph


def _run(example: Example) -> list[Tensor]:
    try:
        with torch.random.fork_rng(devices=[]):
            outputs = example.call(example.leaves)
    except Exception as error:  # whatever the user's forward may raise
        name = type(example.model).__name__
        raise ValueError(
            f"{name} does not run on example_inputs ({_first_line(error)}): give inputs as "
            f"{name}(...) takes them"
        ) from error
    if not outputs:
        raise ValueError(f"{type(example.model).__name__} returns no tensor")
    return outputs


def _export(example: Example) -> torch.export.ExportedProgram:
    """Export, without operators that write in place and with those that can be decomposed."""
    try:
        return _exported(example)
    except Exception as error:  # whatever the user's forward or the exporter may raise
        reason = _first_line(error)
        if "you marked" in str(error).lower():
            reason = "it works for this batch size only: len(x) is fixed, x.shape[0] is not"
        raise ValueError(
            f"{type(example.model).__name__} cannot be exported ({reason}): save it without "
            "example_inputs to store its weights only"
        ) from error


def _exported(example: Example) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that the exporter sets back
        batch = {"leaves": tuple({0: torch.export.Dim.DYNAMIC} for _ in example.leaves)}
        leaves = tuple(example.leaves)
        program = torch.export.export(FlatNetwork(example), leaves, dynamic_shapes=batch)
        _keep_dropout(program)
        known: Any = torch.export.default_decompositions()
        before: set[Any] | None = None
        while (unknown := set(_obstacles(program))) not in (set(), before):
            before = unknown
            program = program.run_decompositions({op: known[op] for op in unknown if op in known})
        return program


def _keep_dropout(program: torch.export.ExportedProgram) -> None:
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            target = node.target
            if isinstance(target, OpOverload) and _name(target) in ("dropout", "feature_dropout"):
                arguments: list[Any] = [*node.args, *node.kwargs.values()]
                x, p, *train = arguments
                if train == [False]:
                    node.target, node.args = torch.ops.dirprune.dropout.default, (x, float(p))
                    node.kwargs = {}


def _obstacles(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """What is no operator of a graph: to be decomposed, inlined or rid of writing in place."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, OpOverload | HigherOrder):
            continue
        if (
            isinstance(node.target, HigherOrder)
            or _name(node.target) not in _CAPTURED
            or (node.target._schema.is_mutable and not _is_last_reader(node))
        ):
            yield node.target


def _is_last_reader(node: FxNode) -> bool:
    """Whether an operator in place writes over memory that nothing else reads."""
    written = node.args[0]
    return (
        isinstance(written, FxNode)
        and len(written.users) == 1
        and isinstance(written.target, OpOverload)
        and not any(a.alias_info for a in written.target._schema.arguments)
    )


def _name(target: OpOverload) -> str:
    name = target._schema.name.partition("::")[2]
    return name if name.startswith("__") else name.removesuffix("_")


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]


class _Blocked:
    """What stands for a result that could not be captured, or that follows from one."""


_BLOCKED = _Blocked()


class _Translation:
    """Writes an exported program as a graph."""

    def __init__(self, program: torch.export.ExportedProgram, example: Example) -> None:
        self._program, self._example = program, example
        self._values: dict[FxNode, Any] = {}
        self._blockers: dict[str, list[str]] = {}
        inputs = [Slot((-1, *x.shape[1:]), kind_of(x), (-1, *x.shape[1:])) for x in example.leaves]
        self._inputs = tuple(inputs)
        shape = (-1, sum(slot.size for slot in inputs)) if len(inputs) > 1 else inputs[0].shape
        self._builder = Builder(shape, batch_counts=_batch_counts(example.model))
        self._read_inputs()

    def graph(self) -> Graph:
        """Write everything.

        Raises:
            ValueError: With all that is in the way.
        """
        outputs: Sequence[Any] = ()
        for node in self._program.graph.nodes:
            if node.op == "call_function":
                self._values[node] = self._attempt(node)
            elif node.op == "output":
                outputs = node.args[0]
        if self._blockers:
            lines = [f"  {what}, in {_list(paths)}" for what, paths in self._blockers.items()]
            raise ValueError(
                f"{type(self._example.model).__name__} cannot be captured:\n"
                + "\n".join(lines)
                + "\nReplace these, or save without example_inputs to store the weights only"
            )
        return self._finish([self._output(x) for x in outputs])

    def _read_inputs(self) -> None:
        """Constants for parameters and buffers, values for the inputs."""
        model = self._example.model
        named = [*model.named_parameters(remove_duplicate=False),
                 *model.named_buffers(remove_duplicate=False)]  # fmt: skip
        first: dict[int, str] = {}
        for name, tensor in named:
            first.setdefault(id(tensor), name)
        holders = dict(named)
        specs = {s.arg.name: s for s in self._program.graph_signature.input_specs}
        symbols, at, number = set(), 0, 0
        for node in self._program.graph.nodes:
            if node.op != "placeholder":
                continue
            target = specs[node.name].target
            name = (target or "").removeprefix("network.")
            if target is None:
                symbols.add(node.meta["val"].shape[0].node.expr)
                value = self._input(self._inputs[number], at)
                if self._inputs[number].kind == "bool":
                    self._builder.booleans.add(value.number)
                self._values[node] = value
                at += self._inputs[number].size
                number += 1
            elif name in holders:
                trained = isinstance(holders[name], nn.Parameter)
                tensor = holders[name].detach()
                self._values[node] = Constant(tensor, first[id(holders[name])], trained)
            else:
                self._values[node] = Constant(self._program.constants[target].detach())
        self._symbols = symbols

    def _input(self, slot: Slot, at: int) -> Value:
        whole = Value(0, plain_dims(len(self._builder.shape)))
        if len(self._inputs) == 1:
            return whole
        part = self._builder.take(whole, 1, at, at + slot.size)
        return self._builder.reshape(part, slot.shape)

    def _attempt(self, node: FxNode) -> Any:
        self._builder.path = path = _path(node)
        if any(isinstance(self._values.get(source), _Blocked) for source in node.all_input_nodes):
            return _BLOCKED
        try:
            return self._translate(node)
        except ValueError as error:
            self._blockers.setdefault(f"{node.target}: {error}", []).append(path or "the root")
            return _BLOCKED

    def _translate(self, node: FxNode) -> Any:
        """What stands for a node: a value, a constant, a list of these, or a size."""
        if node.target is operator.getitem:
            source, index = node.args
            held = self._values[source]  # type: ignore[index]
            return held[index]
        outputs = node.meta.get("val")
        results = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        if not isinstance(node.target, OpOverload):
            return BatchSize()  # shapes follow from the example: nobody reads it there
        if not any(isinstance(t, Tensor) for t in results):
            return BatchSize()
        name = _name(node.target)
        arguments = self._bind(node)
        given = list(_flat(vars(arguments).values()))
        of_batch = name in _CAPTURED and any(isinstance(v, BatchSize) for v in given)
        if not of_batch and not any(isinstance(v, Value) for v in given):
            return self._evaluate(node)
        if name not in _CAPTURED:
            raise ValueError("a graph has no operator for it")
        tensors = [t for t in results if isinstance(t, Tensor)]
        sizes = [self._sizes(t) for t in tensors]
        value = _CAPTURED[name](self._builder, arguments, sizes)
        if isinstance(value, Value) and tensors[0].dtype == torch.bool:
            self._builder.booleans.add(value.number)
        return value

    def _evaluate(self, node: FxNode) -> Any:
        """Compute what depends on constants alone."""
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise ValueError("it draws at random, in evaluation mode too")

        def value(source: FxNode) -> Any:
            if not isinstance(self._values.get(source), Constant):
                raise ValueError("it makes a tensor from the size of the batch")
            return self._values[source].tensor

        arguments = map_arg((node.args, node.kwargs), value)
        result = target(*arguments[0], **arguments[1])
        if isinstance(result, (tuple, list)):
            return [Constant(t) for t in result]
        return Constant(result)

    def _bind(self, node: FxNode) -> Arguments:
        """The arguments by the names of the operator's schema, values in the place of nodes."""

        def value(argument: Any) -> Any:
            if isinstance(argument, (list, tuple)):
                return [value(a) for a in argument]
            if isinstance(argument, torch.SymInt):
                return BatchSize()
            return self._values.get(argument) if isinstance(argument, FxNode) else argument

        schema: Any = node.target._schema  # type: ignore[union-attr]
        bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        bound |= {a.name: value(v) for a, v in zip(schema.arguments, node.args)}
        bound |= {key: value(v) for key, v in node.kwargs.items()}
        return Arguments(**bound)

    def _sizes(self, tensor: Tensor) -> Shape:
        """Sizes with ``-c`` for c times the batch."""
        sizes = []
        for size in tensor.shape:
            if isinstance(size, int):
                sizes.append(size)
                continue
            expression = size.node.expr
            expression = expression.subs(dict.fromkeys(self._symbols, 1))
            factor = int(expression) if expression.is_Integer else 0
            if factor < 1 or size.node.expr.subs(dict.fromkeys(self._symbols, 2)) != 2 * factor:
                raise ValueError(f"its size {size} is no multiple of the batch")
            sizes.append(-factor)
        return tuple(sizes)

    def _output(self, x: Any) -> tuple[Value, Slot]:
        value = self._values.get(x) if isinstance(x, FxNode) else None
        if not isinstance(value, Value):
            raise ValueError(
                f"{type(self._example.model).__name__} cannot be captured: an output does not "
                "depend on the input; return it apart from the network"
            )
        flat = [g for group in value.dims for g in group]
        shape = self._builder.graph_shape(value)
        kind = kind_of(x.meta["val"])
        return value, Slot(shape, kind, self._builder.sizes(value), flat.index(0))

    def _finish(self, outputs: list[tuple[Value, Slot]]) -> Graph:
        b, example = self._builder, self._example
        joined, slot = outputs[0]
        if example.is_plain and slot.sizes == slot.shape and slot.kind == "float":
            return b.finish(joined, None)
        if len(outputs) > 1:
            flat = [
                b.add("reshape", [v], {"size": (-1, s.size)}, dims=plain_dims(2))
                for v, s in outputs
            ]
            joined = b.add("cat", flat, {"dim": 1})
        slots = tuple(slot for _, slot in outputs)
        signature = Signature(
            tuple(example.names), tuple(example.arguments), self._inputs,
            example.result or {"value": None}, slots,
        )  # fmt: skip
        return b.finish(joined, signature)


def _check(graph: Graph, example: Example, expected: list[Tensor]) -> None:
    """Refuse a graph that computes something else than the network does."""
    leaves = [leaf.cpu().float() for leaf in example.leaves]
    x = leaves[0] if graph.signature is None else pack(graph.signature, leaves, torch.cat)
    y = GraphNet(graph).run(x)
    found = [y] if graph.signature is None else split(graph.signature, y)
    for wanted, own in zip(expected, found, strict=True):
        wanted, own = wanted.detach().cpu().double(), own.double()
        if own.shape != wanted.shape:
            raise RuntimeError(f"the captured graph gives {own.shape}, not {wanted.shape}: {_BUG}")
        finite = wanted.isfinite()
        largest = float(wanted[finite].abs().max()) if finite.any() else 0.0
        gap = float((wanted - own)[finite].abs().max()) if finite.any() else 0.0
        dtypes = {p.dtype for p in example.model.parameters()}
        tolerance = max([_TOLERANCES.get(dtype, 1e-3) for dtype in dtypes], default=1e-3)
        if not gap <= tolerance * largest + 1e-6:
            raise RuntimeError(f"the captured graph's output differs by {gap:.1e}: {_BUG}")


_BUG = "this is a bug of dirprune, please report it with the model"


def _batch_counts(model: nn.Module) -> dict[str, Constant]:
    counts = {}
    for name, module in model.named_modules():
        if getattr(module, "momentum", 0) is None and isinstance(
            count := getattr(module, "num_batches_tracked", None), Tensor
        ):
            own = f"{name}." if name else ""
            counts[f"{own}running_mean"] = Constant(count.float(), f"{own}num_batches_tracked")
    return counts


def _say_what_is_converted(model: nn.Module) -> None:
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if dtypes:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        _log.warning("parameters of %s are converted to float32", names)


def _path(node: FxNode) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    path = str(list(stack.values())[-1][0])
    return "" if path == "network" else path.removeprefix("network.")


def _list(paths: list[str]) -> str:
    unique = list(dict.fromkeys(paths))
    more = f" and {len(unique) - 5} more" if len(unique) > 5 else ""
    return ", ".join(unique[:5]) + more


def _flat(arguments: Iterable[Any]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, list):
            yield from _flat(argument)
        else:
            yield argument
