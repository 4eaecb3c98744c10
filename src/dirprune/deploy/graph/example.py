"""A call of a network on example inputs: its arguments, its result and its hooks."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.signature import Kind, Structure, flatten, pack, rebuild
from dirprune.deploy.graph.traced_code import traceable

ExampleInputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A tensor, a tuple of positional arguments, or a dictionary of keyword arguments."""


@dataclass
class Example:
    """Example inputs, bound to the arguments of a network.

    Args:
        model: The network, unwrapped.
        inputs: The user's example inputs.

    Raises:
        ValueError: If they are not a batch.

    Attributes:
        leaves: The tensors in the inputs; a batch of one is repeated.
        names: Names of the arguments.
        arguments: Structures of the arguments.
        result: Structure of the output, after a call.
        positional: How many arguments are given by position.
        equal: Pairs of sizes, each a number of a tensor and a dimension, that shall be equal.
        takes_gradients: Whether the network asked for gradients when it was exported.
    """

    model: nn.Module
    inputs: ExampleInputs
    leaves: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arguments: list[Structure] = field(default_factory=list)
    result: Structure | None = None
    positional: int = 0
    equal: list[tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    takes_gradients: bool = False

    def __post_init__(self) -> None:
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.is_meta and not is_lazy(tensor):
                raise ValueError(f"{name} is on the meta device, without values: load it first")
        args, kwargs = as_arguments(self.inputs)
        self.positional = len(args)
        self.names = [*_positional_names(self.model, len(args)), *kwargs]
        for value in (*args, *kwargs.values()):
            self.arguments.append(flatten(value, is_tensor, self.leaves, _children))
        dtypes = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        self.leaves = [_checked(leaf, self.leaves[0], dtype) for leaf in self.leaves]
        if not self.leaves:
            raise ValueError("example_inputs must hold at least one tensor, a batch of samples")
        if len(self.leaves[0]) == 1:
            self.leaves = [torch.cat([leaf, leaf]) for leaf in self.leaves]

    def call(self, leaves: list[Tensor]) -> list[Tensor]:
        """Call the network and flatten its result."""
        values = [rebuild(structure, leaves) for structure in self.arguments]
        kwargs = dict(zip(self.names[self.positional :], values[self.positional :]))
        outputs: list[Tensor] = []
        value = self.model(*values[: self.positional], **kwargs)
        self.result = flatten(value, is_tensor, outputs, _children)
        return outputs

    @property
    def is_plain(self) -> bool:
        """Whether the network is called with one float tensor and returns one tensor."""
        one = self.arguments == [{"leaf": 0}] and self.positional == 1
        return one and self.result == {"leaf": 0} and kind_of(self.leaves[0]) == "float"


class FlatNetwork(nn.Module):
    """A network with tensors in and tensors out, for ``torch.export``."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.network = example.model
        self._example = example

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Call it."""
        for (one, dim), (other, at) in self._example.equal:
            torch._check(leaves[one].shape[dim] == leaves[other].shape[at])
        with traceable(self.network) as functions:
            try:
                return tuple(self._example.call(list(leaves)))
            finally:
                self._example.takes_gradients |= functions.takes_gradients


def as_arguments(inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from example inputs."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    raise ValueError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dictionary of "
        f"keyword arguments, got {type(inputs).__name__}"
    )


def graph_input(graph: Graph, inputs: ExampleInputs) -> Tensor:
    """Convert example inputs to the input of a graph.

    Args:
        graph: The graph of the network.
        inputs: As for :func:`dirprune.deploy.capture`.

    Returns:
        The graph's input, float32 on the CPU.
    """
    args, kwargs = as_arguments(inputs)
    if graph.signature is None:
        leaves = [*args, *kwargs.values()]
        return leaves[0].detach().cpu().float()  # type: ignore[no-any-return]
    found = [leaf.detach().cpu().float() for leaf in graph.signature.leaves(args, kwargs)]
    packed: Tensor = pack(graph.signature, found, torch.cat)
    return packed


def is_tensor(value: Any) -> bool:
    """Whether something is a tensor."""
    return isinstance(value, Tensor)


def kind_of(tensor: Tensor) -> Kind:
    """The kind of a tensor's elements."""
    if tensor.dtype == torch.bool:
        return "bool"
    return "float" if tensor.is_floating_point() else "int"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Temporarily put every submodule into evaluation mode.

    Args:
        model: Any module.

    Yields:
        Nothing; afterwards the mode of every submodule is restored, and every buffer.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module._buffers, name, buffer, buffer._version, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if not (buffer is None or is_lazy(buffer) or buffer.is_inference())
    ]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for own, name, buffer, version, before in buffers:
            own[name] = buffer
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(before)


@contextmanager
def without_observers(
    model: nn.Module, run: Callable[[list[Tensor]], list[Tensor]], leaves: list[Tensor]
) -> Iterator[list[Tensor]]:
    """Remove the hooks that do not change values, which would see the exporter's fake tensors.

    The network is run with its hooks. A hook that returns nothing changes no value, unless the
    network reads what the hook stores: it then gives something else without the hook, and all
    hooks stay. The results of hooks before ``forward``, such as a pruned or normalised weight,
    are kept from the last run.

    Args:
        model: Any module.
        run: Calls the module with the tensors of its inputs.
        leaves: These tensors.

    Yields:
        The result of ``run``.
    """
    places = [
        hooks
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        if hooks
    ]
    saved: list[Any] = [OrderedDict(hooks) for hooks in places]
    changing: set[tuple[int, int]] = set()

    def recorded(place: int, key: int, hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = hook(*args, **kwargs)
            if result is not None:
                changing.add((place, key))
            return result

        return call

    try:
        for place, hooks in enumerate(places):
            for key, hook in saved[place].items():
                hooks[key] = recorded(place, key, hook)
        other = [torch.cat([leaf, leaf[:1]]) for leaf in leaves]
        expected = run(other) if saved else []
        result = run(leaves)  # the last run, so that what hooks store is not that of ``other``
        if len(changing) < sum(map(len, saved)):
            for place, hooks in enumerate(places):
                hooks.clear()
                hooks.update({k: h for k, h in saved[place].items() if (place, k) in changing})
            if not _returns(run, other, expected):
                for hooks, before in zip(places, saved):
                    hooks.clear()
                    hooks.update(before)
        yield result
    finally:
        for hooks, before in zip(places, saved):
            hooks.clear()
            hooks.update(before)


def _returns(
    run: Callable[[list[Tensor]], list[Tensor]], leaves: list[Tensor], expected: list[Tensor]
) -> bool:
    try:
        found = run(leaves)
    except ValueError:
        return False
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def _positional_names(model: nn.Module, count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds][:count]
    return names + [f"input_{i}" for i in range(len(names), count)]


def _checked(leaf: Tensor, first: Tensor, dtype: torch.dtype | None) -> Tensor:
    if leaf.is_meta or leaf.layout != torch.strided:
        raise ValueError(
            f"example_inputs must be dense tensors with values, got {leaf.layout} on {leaf.device}"
        )
    if leaf.dim() < 1:
        raise ValueError(
            f"example_inputs must be batches, got the single number {leaf.item()}: give one "
            "number for each sample, or a number of Python, which stays fixed"
        )
    if 0 in leaf.shape or leaf.is_complex():
        raise ValueError(
            f"example_inputs must be batches of real numbers, got {leaf.dtype} with shape "
            f"{tuple(leaf.shape)}"
        )
    if len(leaf) != len(first):
        raise ValueError(
            "all tensors of example_inputs must have the batch first, got shapes "
            f"{tuple(first.shape)} and {tuple(leaf.shape)}"
        )
    leaf = leaf.detach()
    return leaf.to(dtype) if dtype is not None and leaf.is_floating_point() else leaf


def _children(value: Any) -> Any:
    """The parts of an object that torch can flatten, such as a cache of keys and values."""
    if isinstance(value, torch.SymInt | torch.SymFloat):
        raise ValueError(
            "it returns a number that follows from the batch or from a size that varies: leave it "
            "out, the caller can read it from the shapes"
        )
    if type(value) not in pytree.SUPPORTED_NODES:
        raise ValueError(
            f"a {type(value).__name__} is neither a tensor nor a tuple, list, dictionary or "
            "dataclass of tensors"
        )
    children, _ = pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
    return list(children)
