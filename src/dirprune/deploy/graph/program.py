"""From a module to a program of operators that a graph knows, by ``torch.export``."""

import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator as HigherOrder
from torch._ops import OpOverload
from torch.fx import Node as FxNode

from dirprune.deploy.graph.example import Example, FlatNetwork
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.bags import BAGS
from dirprune.deploy.graph.operators.composed import COMPOSED
from dirprune.deploy.graph.operators.division import DIVISION
from dirprune.deploy.graph.operators.gamma import GAMMA
from dirprune.deploy.graph.operators.logic import LOGIC
from dirprune.deploy.graph.operators.places import PLACES
from dirprune.deploy.graph.operators.sampling import SAMPLED
from dirprune.deploy.graph.operators.selection import SELECTION
from dirprune.deploy.graph.operators.unpooling import UNPOOLED
from dirprune.deploy.graph.size_requests import Place, traced_inputs
from dirprune.deploy.graph.sizes import SizeRange

CAPTURED = {
    **{name: f for record in OPERATORS.values() for name, f in record.captured.items()},
    **COMPOSED,
    **DIVISION,
    **PLACES,
    **SELECTION,
    **SAMPLED,
    **UNPOOLED,
    **BAGS,
    **LOGIC,
    **GAMMA,
}
"""The function that writes the node, for every ATen operator that a graph takes."""


@torch.library.custom_op("dirprune::dropout", mutates_args=())
def _dropout(x: Tensor, p: float) -> Tensor:
    """Dropout in evaluation mode, which the exporter would leave out."""
    return x.clone()


@_dropout.register_fake
def _(x: Tensor, p: float) -> Tensor:
    return torch.empty_like(x)


def exported_program(
    example: Example, ranges: Mapping[Place, SizeRange]
) -> torch.export.ExportedProgram:
    """Export, without operators that write in place and with those that can be decomposed."""
    try:
        return _exported(example, ranges)
    except Exception as error:  # whatever the user's forward or the exporter may raise
        reason = first_line(error)
        fixed = _fixed_sizes(str(error), ranges)
        if fixed:
            recurrent = any(isinstance(m, nn.RNNBase) for m in example.model.modules())
            hint = " (a recurrent layer runs a fixed number of steps)" if recurrent else ""
            raise ValueError(
                f"{type(example.model).__name__} works for one size only: {fixed}. Its code "
                f"compares the size with a constant, or with a size that may not vary{hint}: give "
                "bounds for that one as well, or leave this one out of dynamic"
            ) from error
        if "you marked" in str(error).lower():
            reason = "it works for this batch size only, as by a loop over the samples"
        if "data-dependent" in str(error):
            reason = (
                f"its code depends on values of the input or of a buffer{_line(error)}, for "
                "example by if, int() or .item(): use torch.where, and keep a number that never "
                "changes as a plain number of Python"
            )
        if "inference tensor" in str(error).lower():
            reason = "it was made under torch.inference_mode: make and load it outside of that"
        modules = example.model.named_modules()
        if any(
            isinstance(m, torch.jit.ScriptModule) and (scripted := name) for name, m in modules
        ):
            reason = f"{scripted} is a ScriptModule: use the nn.Module it was made from"
        if "Couldn't swap" in str(error):
            reason = f"its forward converts a layer{_line(error)}: convert the layer before"
        raise ValueError(
            f"{type(example.model).__name__} cannot be exported ({reason}): save it without "
            "example_inputs to store its weights only"
        ) from error


def _line(error: Exception) -> str:
    """Describe the last line before an error that is neither in torch nor in this package."""
    ours = [Path(torch.__file__).parent, Path(__file__).parents[2]]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(path.is_relative_to(folder) for folder in ours):
            return f" in {path.name}, line {frame.lineno}"
    return ""


def _exported(example: Example, ranges: Mapping[Place, SizeRange]) -> torch.export.ExportedProgram:
    try:
        return _decomposed(example, traced_inputs(example, ranges), ranges)
    except Exception:
        if ranges:  # a map of the example may have a single pixel, which counts as fixed
            with suppress(Exception):
                return _decomposed(example, traced_inputs(example, ranges, 0.9), ranges)
        raise


def _fixed_sizes(message: str, ranges: Mapping[Place, SizeRange]) -> str:
    """Which sizes that shall vary the exporter found to be constants."""
    pattern = r"\['leaves'\]\[(\d+)\]\.size\(\)\[(\d+)\][^\n]*constant \((\d+)\)"
    found = {(int(i), int(dim)): size for i, dim, size in re.findall(pattern, message)}
    pattern = r"static shape of (\d+) for dimension inputs\['leaves_(\d+)'\]\.shape\[(\d+)\]"
    found |= {(int(i), int(dim)): size for size, i, dim in re.findall(pattern, message)}
    return ", ".join(
        f"input {ranges[place].name.rpartition('.')[0]}, dimension {place[1]} must be {size}"
        for place, size in found.items()
        if place in ranges
    )


def _decomposed(
    example: Example, inputs: list[Tensor], ranges: Mapping[Place, SizeRange]
) -> torch.export.ExportedProgram:
    quiet = _quiet(logging.getLogger("torch.fx.experimental"))
    # The exporter prints what it traced before an error.
    with warnings.catch_warnings(), quiet, redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # of attributes that the exporter sets back
        varying: Any = torch.export.Dim.DYNAMIC
        dims: list[dict[int, Any]] = [{0: varying} for _ in example.leaves]
        for (number, dim), own in ranges.items():
            dims[number][dim] = varying(min=own.low, max=own.high)
        program = torch.export.export(
            FlatNetwork(example), tuple(inputs), dynamic_shapes={"leaves": tuple(dims)}
        )
        _keep_dropout(program)
        known: Any = torch.export.default_decompositions()
        before: set[Any] | None = None
        while (found := set(_obstacles(program, known))) not in (set(), before):
            before = found
            program = program.run_decompositions({op: known[op] for op in found if op in known})
        return program


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Without the exporter's attempts to solve inequalities of sizes."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _keep_dropout(program: torch.export.ExportedProgram) -> None:
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            target = node.target
            if not isinstance(target, OpOverload):
                continue
            if aten_name(target) in ("dropout", "feature_dropout"):
                arguments: list[Any] = [*node.args, *node.kwargs.values()]
                x, p, *train = arguments
                if train == [False]:
                    node.target, node.args = torch.ops.dirprune.dropout.default, (x, float(p))
                    node.kwargs = {}


def _obstacles(
    program: torch.export.ExportedProgram, decompositions: Mapping[Any, Any]
) -> Iterator[Any]:
    """Operators to decompose, inline or make functional, because a graph does not have them."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, OpOverload | HigherOrder):
            continue
        if (
            isinstance(node.target, HigherOrder)
            or (aten_name(node.target) not in CAPTURED and _decomposes(node, decompositions))
            or (node.target._schema.is_mutable and not _is_last_reader(node))
        ):
            yield node.target


def _decomposes(node: FxNode, decompositions: Mapping[Any, Any]) -> bool:
    """Whether torch writes an operator with others: by its table, or always for some views."""
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        node.target.name(),  # type: ignore[union-attr]
        "CompositeImplicitAutograd",
    )
    makes_tensors = isinstance(node.meta.get("val"), Tensor | tuple | list)
    return node.target in decompositions or (composite and makes_tensors)


def _is_last_reader(node: FxNode) -> bool:
    """Whether an operator in place writes over memory that nothing else reads."""
    written = node.args[0]
    return (
        isinstance(written, FxNode)
        and len(written.users) == 1
        and isinstance(written.target, OpOverload)
        and not any(a.alias_info for a in written.target._schema.arguments)
    )


def aten_name(target: OpOverload) -> str:
    """The name without namespace, and without the underscore of an operator in place."""
    name = target._schema.name.partition("::")[2]
    return name if name.startswith("__") else name.removesuffix("_")


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 300 characters."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
