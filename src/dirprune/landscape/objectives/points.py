"""Points of a landscape: a network's trainable weights as one vector, and its other tensors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dirprune._support.wrappers import plain_name

StateDict = Mapping[str, Tensor]
"""A state_dict."""

NamedTensors = dict[str, Tensor]
"""Tensors by the names of parameters."""


class Point(NamedTuple):
    """A network as a point of its landscape.

    Attributes:
        w: All trainable weights, with shape (d,), in the order of ``model.parameters()``.
        rest: The rest of its state_dict by name: buffers and frozen parameters.
    """

    w: Tensor
    rest: dict[str, Tensor]


class ParameterLayout:
    """The positions of a model's trainable parameters in a vector of all of them.

    Args:
        model: Any module; only names, shapes and dtypes are read.

    Raises:
        ValueError: If no parameter is trainable.

    Attributes:
        shapes: Shapes of the trainable parameters by name, in the order of
            ``model.parameters()``.
        slices: Position of each parameter in the vector.
        size: Number of trainable weights, d.
        dtype: Dtype of the vector, that of the first parameter.
        device: Device of the vector, that of the first parameter.

    Example:
        >>> layout = ParameterLayout(nn.Linear(3, 2))
        >>> layout.size, layout.slices["bias"]
        (8, slice(6, 8, None))
        >>> layout.tensors(torch.arange(8.0))["weight"]
        tensor([[0., 1., 2.],
                [3., 4., 5.]])
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        trainable = {n: p for n, p in parameters.items() if p.requires_grad}
        if not trainable:
            raise ValueError(
                "the model has no trainable parameter: call requires_grad_(True) on those that "
                "span the landscape"
            )
        first = {p: n for n, p in parameters.items()}
        self._frozen = parameters.keys() - trainable.keys()
        state = _tensors(model.state_dict(keep_vars=True))
        # A shared parameter has several names in a state_dict, but one in named_parameters().
        self._names = {n: first.get(t, n) for n, t in state.items()}
        self._needed = {n: t.shape for n, t in state.items()}
        self.shapes = {n: p.shape for n, p in trainable.items()}
        self.slices: dict[str, slice] = {}
        self.size = 0
        for name, p in trainable.items():
            self.slices[name] = slice(self.size, self.size + p.numel())
            self.size += p.numel()
        like = next(iter(trainable.values()))
        self.dtype, self.device = like.dtype, like.device

    def point(self, state: StateDict, origin: str = "the state dict") -> Point:
        """Split a state_dict into trainable weights and the rest.

        Args:
            state: State dict of the model.
            origin: Its name in messages.

        Returns:
            Copies of its tensors; the weights have this layout's dtype and device.

        Raises:
            TypeError: If it is not a mapping of tensors.
            ValueError: If a tensor is missing, superfluous, not finite, or has another shape.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"{origin} is a {type(state).__name__}: give a state dict, model.state_dict()"
            )
        state = _tensors(state)
        if state.keys() != self._needed.keys():
            # The state of a wrapped model: AveragedModel has a counter of its own as well.
            plain = {unwrapped_name(n): t for n, t in state.items() if n != "n_averaged"}
            state = plain if plain.keys() == self._needed.keys() else state
        found = {n: getattr(t, "shape", None) for n, t in state.items()}
        for name in self._needed | found:
            if self._needed.get(name) != found.get(name):
                raise ValueError(
                    f"{origin} belongs to another model: {name} has shape "
                    f"{format_shape(found.get(name))}, the model's "
                    f"{format_shape(self._needed.get(name))}; "
                    "give the model that it belongs to"
                )
        for name in self.shapes:
            if wrong := int((~state[name].isfinite()).sum()):
                raise ValueError(
                    f"{origin} is not finite, {wrong:,} weights of {name} are NaN or infinite: "
                    "give a checkpoint from before training diverged"
                )
        pieces = [state[name].detach().reshape(-1) for name in self.shapes]
        w = torch.cat([piece.to(self.device, self.dtype) for piece in pieces])
        others = {n for n, own in self._names.items() if n == own} - self.shapes.keys()
        return Point(w, {n: state[n].detach().clone() for n in state if n in others})

    def state(self, point: Point) -> dict[str, Tensor]:
        """Undo :meth:`point`; the state_dict shares memory with the point."""
        tensors = self.tensors(point.w) | point.rest
        return {name: tensors[own] for name, own in self._names.items()}

    @torch.no_grad()
    def load(self, point: Point, model: nn.Module) -> None:
        """Copy a point's weights and buffers into a model with this layout."""
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        for name, value in (self.tensors(point.w) | point.rest).items():
            own[name].copy_(value)

    def place(self, tensor: Tensor) -> Tensor:
        """Move a tensor to this layout's device, and to its dtype if it is floating-point."""
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype, non_blocking=True)

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """Split a vector with shape (d,) into views with the parameters' shapes, by name."""
        if w.shape != (self.size,):
            raise ValueError(
                f"the model has {self.size:,} trainable weights, the vector has shape "
                f"{tuple(w.shape)}: give all of them as one vector"
            )
        return {name: w[self.slices[name]].view(shape) for name, shape in self.shapes.items()}

    def check_distinct(self, points: Mapping[str, Point]) -> None:
        """Raise if two points are the same.

        Args:
            points: By their names in messages.

        Raises:
            ValueError: If two are identical, or a frozen parameter differs.
        """
        named = list(points.items())
        for i, (one, p) in enumerate(named):
            for other, q in named[:i]:
                if torch.equal(p.w, q.w):
                    raise ValueError(
                        f"{other} and {one} are the same point, no weight differs: give "
                        "different networks"
                    )
                for name in sorted(self._frozen):
                    if not torch.equal(p.rest[name], q.rest[name]):
                        raise ValueError(
                            f"{name} is not trainable but differs between {other} and {one}: "
                            "call requires_grad_(True) on it, or give networks that share it"
                        )


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state_dict without the extra state that modules may add to it."""
    return {n: t for n, t in state.items() if n.rpartition(".")[2] != "_extra_state"}


def format_shape(shape: torch.Size | None) -> str:
    """Format a tensor's shape for a message."""
    return "none (missing)" if shape is None else str(tuple(shape))


def unwrapped_name(name: str) -> str:
    """Return a parameter's name without what wrappers of the model add.

    Example:
        >>> unwrapped_name("module._orig_mod.head.weight")
        'head.weight'
    """
    name = plain_name(name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name
