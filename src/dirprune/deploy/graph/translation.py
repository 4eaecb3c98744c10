"""From an exported program to a graph, node by node."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node as FxNode
from torch.fx import map_arg
from torch.utils._pytree import tree_leaves

from dirprune.deploy.graph.batch_sizes import write_number
from dirprune.deploy.graph.blockers import (
    BLOCKED,
    FIXED_SIZES,
    MAPPED,
    OTHER_FORM,
    RANDOM,
    STATE,
    UNKNOWN,
    Blocked,
    Blockers,
)
from dirprune.deploy.graph.example import Example, kind_of
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators.complex import (
    NOT_COMPLEX,
    RETURNED,
    both_parts,
    complex_operators,
    is_complex,
)
from dirprune.deploy.graph.operators.pairs import Pairs
from dirprune.deploy.graph.program import CAPTURED, aten_name
from dirprune.deploy.graph.program_inputs import builder_for, input_slots, read_inputs
from dirprune.deploy.graph.program_sizes import SELECTION, ProgramSizes
from dirprune.deploy.graph.selected import read_selected
from dirprune.deploy.graph.signature import Signature, Slot
from dirprune.deploy.graph.size_requests import Place
from dirprune.deploy.graph.sizes import SizeRange
from dirprune.deploy.graph.traced_sizes import Size, first
from dirprune.deploy.graph.values import (
    Arguments,
    BatchSize,
    Constant,
    Selected,
    Value,
    plain_dims,
)

_COMPLEX = complex_operators(CAPTURED)
_COMPUTED = ("Tensor", "number")
"""Types of arguments that are numbers to compute with; all others are sizes."""


class Translation:
    """Writes an exported program as a graph."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        example: Example,
        ranges: Mapping[Place, SizeRange],
    ) -> None:
        self._program, self._example = program, example
        self._sizes = ProgramSizes(program, example, ranges)
        self._blockers = Blockers()
        self._inputs = input_slots(self._sizes, example)
        self._builder = builder_for(self._inputs, example.model)
        self._values = read_inputs(program, example.model, self._inputs, self._builder)

    def graph(self) -> Graph:
        """Write everything.

        Raises:
            ValueError: With all that is in the way.
        """
        nodes = list(self._program.graph.nodes)
        outputs, written = self._outputs(nodes[-1])
        needed = {x for x in outputs if isinstance(x, FxNode)}
        for node in reversed(nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        for node in nodes:
            if node in needed and node.op == "placeholder" and node.name in written:
                self._blockers.add(written[node.name], STATE, "")
            if node.op == "call_function" and node in needed:
                self._values[node] = self._attempt(node)
        for x in outputs:
            held = self._values.get(x)
            if isinstance(held, Selected) or is_complex(held):
                reason = SELECTION if isinstance(held, Selected) else RETURNED
                self._blockers.add(x.target, reason, _path(x))
        if self._blockers:
            space = self._sizes.space
            raise self._blockers.error(self._example.model, space.hint() if space else None)
        return self._finish([self._output(x) for x in outputs])

    def _outputs(self, last: FxNode) -> tuple[list[Any], dict[str, str]]:
        """What the network returns, and names of the buffers that it writes by placeholder."""
        signature = self._program.graph_signature
        changed = set(signature.buffers_to_mutate.values())
        written = {
            name: target.removeprefix("network.")
            for name, target in signature.inputs_to_buffers.items()
            if target in changed
        }
        returned: Any = last.args[0]
        return list(returned)[len(returned) - len(signature.user_outputs) :], written

    def _attempt(self, node: FxNode) -> Any:
        self._builder.path = path = _path(node)
        if any(isinstance(self._values.get(source), Blocked) for source in node.all_input_nodes):
            return BLOCKED
        try:
            return self._translate(node)
        except ValueError as error:
            reason = str(error)
        except TypeError:  # torch's functions refuse sizes that vary
            reason = OTHER_FORM if self._sizes.space is None else FIXED_SIZES
        except (AttributeError, LookupError, RuntimeError):  # arguments that were not foreseen
            reason = OTHER_FORM
        target = node.args[0].target if node.target is operator.getitem else node.target  # type: ignore[union-attr]
        if not isinstance(target, OpOverload):
            target = getattr(target, "__name__", target)
        self._blockers.add(target, reason, path)
        return BLOCKED

    def _translate(self, node: FxNode) -> Any:
        """The result of a node: a value, a constant, a list of these, or a size."""
        if node.target is operator.getitem:
            source, index = node.args
            part = self._values[source][index]  # type: ignore[index]
            return part() if callable(part) else part  # written where something reads it
        outputs = node.meta.get("val")
        results = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        if not any(isinstance(t, Tensor) for t in results):
            return self._number(node)
        if not isinstance(node.target, OpOverload):
            raise ValueError(MAPPED)
        name = aten_name(node.target)
        arguments = self._bind(node)
        tensors = [t for t in results if isinstance(t, Tensor)]
        given = list(_flat(vars(arguments).values()))
        of_sizes = name in CAPTURED and any(isinstance(v, BatchSize | Size) for v in given)
        if name != "index_put" and any(isinstance(v, Selected) for v in given):
            of_result = [self._sizes.size_if_known(size) for size in tensors[0].shape]
            return read_selected(self._builder, name, arguments, of_result)
        if (selected := self._selected(name, arguments)) is not None:
            return selected
        if not any(isinstance(v, Value | Pairs) for v in given):
            if not of_sizes:
                return self._evaluate(node)
            self._make_values(arguments)
        has_parts = any(t.is_complex() for t in tensors) or any(map(is_complex, given))
        known = _COMPLEX if has_parts else CAPTURED
        if name not in known:
            if torch.Tag.nondeterministic_seeded in node.target.tags:
                raise ValueError(RANDOM)
            raise ValueError(NOT_COMPLEX if known is _COMPLEX else UNKNOWN)
        indices = getattr(arguments, "indices", None)
        for index in indices if isinstance(indices, list) else ():
            if isinstance(index, Constant) and index.tensor.dtype == torch.bool:
                count = int(index.tensor.sum())
                self._sizes.bind(tensors[0].shape, [count] * tensors[0].dim())
        sizes = [self._sizes.sizes(t) for t in tensors]
        self._builder.is_whole = all(kind_of(t) == "int" for t in tensors)
        value = known[name](self._builder, arguments, sizes)
        if isinstance(value, Pairs) and not tensors[0].is_complex():  # such as x.view_as(z)
            value = value.real
        if isinstance(value, Value) and tensors[0].dtype == torch.bool:
            self._builder.booleans.add(value.number)
        return value

    def _number(self, node: FxNode) -> Any:
        """What a number is: that of a constant, as by ``.item()``, or one of sizes."""
        traced = node.meta.get("val")
        if node.target is torch.ops.aten._local_scalar_dense.default:
            source = self._values.get(node.all_input_nodes[0])
            if isinstance(source, Constant):
                self._sizes.bind([traced], [source.tensor.item()])
        return self._sizes.number(traced)

    def _selected(self, name: str, arguments: Arguments) -> Selected | None:
        """What ``x[mask]`` is."""
        if name == "index" and len(arguments.indices) == 1 and isinstance(arguments.self, Value):
            number = getattr(arguments.indices[0], "number", -1)
            if number in self._builder.booleans:
                return Selected(arguments.self, number)
        return None

    def _make_values(self, arguments: Arguments) -> None:
        """What a constant becomes at a size that varies is a value, the same for all samples."""
        held = getattr(arguments, "self", None)
        if isinstance(held, Constant) and any(
            isinstance(v, Size) for v in _flat(vars(arguments).values())
        ):
            if held.tensor.is_complex():
                arguments.self = Pairs(*both_parts(self._builder, held))
                return
            arguments.self = self._builder.constant_value(held)
            if held.tensor.dtype == torch.bool:
                self._builder.booleans.add(arguments.self.number)

    def _evaluate(self, node: FxNode) -> Any:
        """Compute what depends on constants alone."""
        target: Any = node.target
        given = vars(self._bind(node))
        share = given.get("dropout_p", given.get("p", 1.0))  # dropout of nothing draws nothing
        draws = share and given.get("train", given.get("training", True))
        if torch.Tag.nondeterministic_seeded in target.tags and draws:
            raise ValueError(RANDOM)

        def value(source: FxNode) -> Any:
            held = self._values.get(source)
            if isinstance(held, int | float):
                return held
            if not isinstance(held, Constant):
                raise ValueError("it makes a tensor from the size of the batch")
            return held.tensor

        arguments = map_arg((node.args, node.kwargs), value)
        result = target(*arguments[0], **arguments[1])
        for traced, own in zip(tree_leaves(node.meta.get("val")), tree_leaves(result)):
            if isinstance(traced, Tensor):
                self._sizes.bind(traced.shape, own.shape)
        if aten_name(target) in ("_to_copy", "to") and result.is_floating_point():
            source = self._values[node.all_input_nodes[0]]
            if source.tensor.is_floating_point():  # autocast: a graph computes in float32
                return source
        if isinstance(result, (tuple, list)):
            return [Constant(t) for t in result]
        return Constant(result)

    def _bind(self, node: FxNode) -> Arguments:
        """The arguments by the names of the operator's schema, values in the place of nodes."""

        def value(argument: Any) -> Any:
            if isinstance(argument, (list, tuple)):
                return [value(a) for a in argument]
            return self._values.get(argument) if isinstance(argument, FxNode) else argument

        schema: Any = node.target._schema  # type: ignore[union-attr]
        bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        bound |= {a.name: value(v) for a, v in zip(schema.arguments, node.args)}
        bound |= {key: value(v) for key, v in node.kwargs.items()}
        for a in schema.arguments:
            computed = isinstance(bound.get(a.name), BatchSize)
            if computed and str(a.type).removeprefix("Optional[").rstrip("]") in _COMPUTED:
                expression = bound[a.name].expression
                bound[a.name] = write_number(self._builder, expression, self._sizes.batch)
        return Arguments(**bound)

    def _output(self, x: Any) -> tuple[Value, Slot]:
        value = self._builder.operand(self._values[x] if isinstance(x, FxNode) else Constant(x))
        if 0 in self._builder.sizes(value):
            name = type(self._example.model).__name__
            raise ValueError(f"{name} returns a tensor without elements: leave it out")
        if isinstance(value, Constant):
            value = self._builder.constant_value(value)
        flat = [g for group in value.dims for g in group]
        place = flat.index(0) if value.holds_batch else 0
        shape = self._builder.graph_shape(value)
        kind = kind_of(x.meta["val"])
        return value, Slot(shape, kind, self._builder.sizes(value), place)

    def _finish(self, outputs: list[tuple[Value, Slot]]) -> Graph:
        b, example = self._builder, self._example
        joined, slot = outputs[0]
        if example.is_plain and slot.sizes == slot.shape and slot.kind == "float":
            return b.finish(joined, None, self._sizes.dynamic([]))
        if len(outputs) > 1:
            flat = [
                b.add("reshape", [v], {"size": (-1, s.size)}, dims=plain_dims(2))
                for v, s in outputs
            ]
            joined = b.add("cat", flat, {"dim": 1})
        slots = tuple(slot for _, slot in outputs)
        inputs, results = (
            tuple(replace(s, shape=first(s.shape), sizes=first(s.sizes)) for s in own)
            for own in (self._inputs, slots)
        )
        signature = Signature(
            tuple(example.names), tuple(example.arguments), inputs,
            example.result or {"value": None}, results,
        )  # fmt: skip
        return b.finish(joined, signature, self._sizes.dynamic(slots))


def _path(node: FxNode) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    path = str(list(stack.values())[-1][0])
    return "" if path == "network" else path.removeprefix("network.")


def _flat(arguments: Iterable[Any]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, list):
            yield from _flat(argument)
        else:
            yield argument
