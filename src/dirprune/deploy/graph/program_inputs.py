"""What an exported program reads: values for its inputs, constants for parameters and buffers."""

from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node as FxNode

from dirprune.deploy.graph.builder import Builder
from dirprune.deploy.graph.example import Example, kind_of
from dirprune.deploy.graph.program_sizes import ProgramSizes
from dirprune.deploy.graph.signature import Slot
from dirprune.deploy.graph.values import Constant, Value, plain_dims


def input_slots(sizes: ProgramSizes, example: Example) -> tuple[Slot, ...]:
    """The shape and kind of every input."""
    shapes = zip(sizes.inputs, example.leaves, strict=True)
    return tuple(Slot(shape, kind_of(x), shape) for shape, x in shapes)


def builder_for(inputs: tuple[Slot, ...], model: nn.Module) -> Builder:
    """A builder whose input is the only one, or all of them side by side."""
    joined = (-1, sum(slot.size for slot in inputs))
    shape = joined if len(inputs) > 1 else inputs[0].shape
    return Builder(shape, batch_counts=_batch_counts(model))


def read_inputs(
    program: ExportedProgram, model: nn.Module, inputs: tuple[Slot, ...], builder: Builder
) -> dict[FxNode, Any]:
    """What the placeholders of a program hold.

    Args:
        program: Of the network, which is a submodule ``network`` in it.
        model: The network, whose state dict names the constants.
        inputs: Of :func:`input_slots`.
        builder: Of :func:`builder_for`.
    """
    named = [*model.named_parameters(remove_duplicate=False),
             *model.named_buffers(remove_duplicate=False)]  # fmt: skip
    holders, first = dict(named), dict[int, str]()
    for name, tensor in named:
        first.setdefault(id(tensor), name)
    specs = {s.arg.name: s for s in program.graph_signature.input_specs}
    values: dict[FxNode, Any] = {}
    at, left = 0, iter(inputs)
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        target = specs[node.name].target
        name = (target or "").removeprefix("network.")
        if target is None:
            slot = next(left)
            value = Value(0, plain_dims(len(builder.shape)))
            if len(inputs) > 1:
                part = builder.take(value, 1, at, at + slot.size)
                value = builder.reshape(part, slot.shape)
            if slot.kind == "bool":
                builder.booleans.add(value.number)
            values[node] = value
            at += slot.size
        elif name in holders:
            trained = isinstance(holders[name], nn.Parameter)
            tensor = holders[name].detach()
            values[node] = Constant(tensor, first[id(holders[name])], trained)
        else:
            values[node] = Constant(program.constants[target].detach())
    return values


def _batch_counts(model: nn.Module) -> dict[str, Constant]:
    counts = {}
    for name, module in model.named_modules():
        if getattr(module, "momentum", 0) is None and isinstance(
            count := getattr(module, "num_batches_tracked", None), Tensor
        ):
            own = f"{name}." if name else ""
            counts[f"{own}running_mean"] = Constant(count.float(), f"{own}num_batches_tracked")
    return counts
