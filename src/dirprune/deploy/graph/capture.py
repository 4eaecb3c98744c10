"""From a module to a graph, by ``torch.export``."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dirprune._support.wrappers import unwrap
from dirprune.deploy.graph.blockers import NO_STATE
from dirprune.deploy.graph.example import Example, ExampleInputs, evaluating, without_observers
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.graph.program import exported_program, first_line
from dirprune.deploy.graph.signature import pack, split
from dirprune.deploy.graph.size_requests import (
    DynamicSizes,
    Place,
    equal_places,
    other_sizes,
    requested_ranges,
)
from dirprune.deploy.graph.sizes import SizeRange
from dirprune.deploy.graph.translation import Translation

_log = logging.getLogger(__name__)

_WIDE = (torch.int32, torch.int64)
_TOLERANCES = {torch.float16: 0.05, torch.bfloat16: 0.2}
"""Largest accepted difference from the model's outputs, relative to the largest output."""


def capture(
    model: nn.Module, example_inputs: ExampleInputs, dynamic: DynamicSizes | None = None
) -> Graph:
    """Capture a network in evaluation mode as a graph.

    The graph accepts batches of any size, and other sizes within the bounds of ``dynamic``; all
    other properties of the inputs are fixed by the example. Expressions of parameters, such as a
    parametrized weight, are computed once. The network is run once on the example, and for sizes
    that vary at four combinations of them; the graph must give the same output.

    Args:
        model: Any module built of the operators of
            :data:`dirprune.deploy.graph.operators.OPERATORS` and of what torch decomposes into
            them. It may be wrapped by DataParallel, DistributedDataParallel, AveragedModel or
            ``torch.compile``. It is not changed. Other precisions become float32; so do integers,
            which are exact up to 16,777,216.
        example_inputs: A tensor, a tuple of positional arguments, or a dictionary of keyword
            arguments. Every tensor has the batch in dimension 0; values do not matter.
        dynamic: Sizes that may vary, by input and dimension: ``{"x": {2: (64, 512)}}``. Bounds are
            inclusive; a third number is a step. An input is named as in the call, or by its index.
            Two inputs whose sizes in a dimension and their bounds are the same must always agree
            there, if the network cannot be captured otherwise.

    Returns:
        The graph. Tensors are named as in the state dict, shared tensors by their first name, and
        tensors outside of modules ``constant.0`` and so on.

    Raises:
        TypeError: If it is not a module.
        ValueError: If the module cannot be captured; the message names every unsupported operator
            and the modules that it came from, or the size that cannot vary.

    Example:
        >>> graph = capture(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.ones(2, 2, 2))
        >>> [node.op for node in graph.nodes], list(graph.tensors)
        (['reshape', 'linear'], ['1.weight', '1.bias'])
    """
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a ScriptModule has no Python code to capture: give the nn.Module it was made from"
        )
    example = Example(model, example_inputs)
    ranges = requested_ranges(example, dynamic)
    reference = Reference()
    with evaluating(model), torch.no_grad():
        if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            _run(example, reference, example.leaves)  # a lazy layer removes its hook at this call
        with without_observers(
            model, lambda leaves: _run(example, reference, leaves), example.leaves
        ) as expected:
            _say_what_is_converted(reference)
            graph = _translated(example, ranges)
        try:
            _check(graph, example.leaves, expected, reference)
        except RuntimeError as error:
            _refuse_state(example, reference, expected, error)
            raise
        for at, leaves in other_sizes(graph, example):
            _check_sizes(at, example, leaves, reference)
    return graph


def _translated(example: Example, ranges: Mapping[Place, SizeRange]) -> Graph:
    """Export and translate. If that fails, try again with equal sizes of two inputs tied."""

    def translate() -> Graph:
        return Translation(exported_program(example, ranges), example, ranges).graph()

    try:
        return translate()
    except ValueError as error:
        if example.takes_gradients:
            raise ValueError(
                f"{type(example.model).__name__} cannot be captured, because its forward takes "
                "gradients: compute them outside of the network, or save without example_inputs "
                "to store the weights only"
            ) from error
        example.equal = equal_places(example, ranges)
        if example.equal:
            with suppress(ValueError):  # the first reason is closer to what the user wrote
                return translate()
        raise


def captured(
    model: nn.Module, example_inputs: ExampleInputs, dynamic: DynamicSizes | None = None
) -> Graph:
    """The graph of a network: that of a ``GraphNet``, or what :func:`capture` returns.

    Raises:
        ValueError: If the model cannot be captured, or ``dynamic`` is given for a ``GraphNet``.
    """
    model = unwrap(model)
    if not isinstance(model, GraphNet):
        return capture(model, example_inputs, dynamic)
    if dynamic is not None:
        raise ValueError(
            "the sizes of a GraphNet (from load or shrink) are fixed already: give dynamic "
            "with the model that it was made of"
        )
    return model.graph


class Reference(TorchDispatchMode):
    """Runs a network to compare a graph with.

    It notes in which precisions the network computes: its parameters', or those of autocast; and
    an integer that float32 does not hold. Of equal elements the first ones are the largest, as in
    a graph; ``torch.topk`` takes any.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()
        self.rounded: int | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and note the precisions of what it returns."""
        result = _OF_EQUAL.get(func, func)(*args, **kwargs or {})
        tensors = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.seen |= {x.dtype for x in tensors if x.is_floating_point()}
        for x in (*tree_leaves(args), *tensors):
            if self.rounded is None and isinstance(x, Tensor) and x.dtype in _WIDE:
                inexact = x[x.float().double() != x.double()]
                self.rounded = int(inexact[0]) if len(inexact) else None
        return result


def _first_of_equal(
    x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, ...]:
    found = x.sort(dim=dim, descending=largest, stable=True)
    return tuple(part.narrow(dim, 0, k).contiguous() for part in found)


_OF_EQUAL: dict[Any, Any] = {torch.ops.aten.topk.default: _first_of_equal}


def _run(example: Example, reference: Reference, leaves: list[Tensor]) -> list[Tensor]:
    try:
        with torch.random.fork_rng(devices=[]), reference:
            outputs = example.call(leaves)
    except Exception as error:  # whatever the user's forward may raise
        name = type(example.model).__name__
        raise ValueError(
            f"{name} does not run on example_inputs ({first_line(error)}): give inputs as "
            f"{name}(...) takes them"
        ) from error
    if not outputs:
        raise ValueError(f"{type(example.model).__name__} returns no tensor")
    return outputs


def _check(
    graph: Graph,
    inputs: Sequence[Tensor],
    expected: list[Tensor],
    reference: Reference,
) -> None:
    """Refuse a graph that computes something else than the network does."""
    leaves = [leaf.cpu().float() for leaf in inputs]
    x = leaves[0] if graph.signature is None else pack(graph.signature, leaves, torch.cat)
    y = GraphNet(graph).run(x)
    found = [y] if graph.signature is None else split(graph.signature, y)
    for wanted, own in zip(expected, found, strict=True):
        wanted, own = wanted.detach().cpu().double(), own.double()
        if own.shape != wanted.shape:
            raise RuntimeError(f"the captured graph gives {own.shape}, not {wanted.shape}: {_BUG}")
        gap, largest = largest_gap(wanted, own)
        if not gap <= tolerance(reference.seen, 1e-3) * largest + 1e-6:
            if reference.rounded is not None:
                raise ValueError(
                    f"the network computes with integers such as {reference.rounded}, which "
                    "float32 rounds: a graph computes all numbers in float32, where integers are "
                    "exact up to 16,777,216. Compute hashes and differences of larger ones before "
                    "the network"
                )
            raise RuntimeError(f"the captured graph's output differs by {gap:.1e}: {_BUG}")


def _refuse_state(
    example: Example, reference: Reference, expected: list[Tensor], error: RuntimeError
) -> None:
    """Say so if the network itself gives other outputs at the next call."""
    again = _run(example, reference, example.leaves)
    if any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(again, expected)):
        name = type(example.model).__name__
        raise ValueError(
            f"{name} gives other outputs when it is called again with the same inputs, because it "
            f"keeps values from call to call, but {NO_STATE}"
        ) from error


def tolerance(precisions: set[torch.dtype], usual: float) -> float:
    """The largest accepted difference, relative to the largest output.

    Args:
        precisions: In which the network computes.
        usual: For float32 and float64.
    """
    return max([_TOLERANCES.get(dtype, usual) for dtype in precisions], default=usual)


def largest_gap(wanted: Tensor, own: Tensor) -> tuple[float, float]:
    """The largest difference, and the largest element, where the wanted elements are finite."""
    finite = wanted.isfinite()
    if not finite.any():
        return 0.0, 0.0
    return float((wanted - own)[finite].abs().max()), float(wanted[finite].abs().max())


def _check_sizes(
    graph: Graph, example: Example, leaves: list[Tensor], reference: Reference
) -> None:
    """Refuse sizes at which the network fails, or computes something else."""
    shapes = " and ".join(str(tuple(leaf.shape)) for leaf in leaves)
    name = type(example.model).__name__
    try:
        with torch.random.fork_rng(devices=[]), Reference():
            expected = example.call(leaves)
    except Exception as error:  # whatever the user's forward may raise
        raise ValueError(
            f"{name} does not run on inputs of {shapes} ({first_line(error)}): give narrower "
            "bounds, or a step, in dynamic"
        ) from error
    try:
        _check(graph, leaves, expected, reference)
    except RuntimeError as error:
        raise ValueError(
            f"{name} acts differently on inputs of {shapes} than on the example "
            f"({first_line(error).removesuffix(f': {_BUG}')}), such as by int() of a size: give "
            "narrower bounds in dynamic"
        ) from error


_BUG = "this is a bug of dirprune, please report it with the model"


def _say_what_is_converted(reference: Reference) -> None:
    if others := reference.seen - {torch.float32}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        _log.warning("what the network computes in %s is computed in float32", names)
    if reference.rounded is not None:
        _log.warning(
            "integers beyond 16,777,216 are rounded to float32, such as %d", reference.rounded
        )
