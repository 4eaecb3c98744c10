r"""Pearlmutter's R-operator for single steps; a product costs about two gradients.

:math:`R\{f\}(w) = \partial_\varepsilon f(w + \varepsilon v)|_{\varepsilon = 0}` applied to the
forward and the backward pass of a layer :math:`y = W * x + b` gives

.. math::
    R y &= W * R x + V * x + R b \\
    R\delta_x &= W^\top * R\delta_y + V^\top * \delta_y \\
    R g_W &= R\delta_y \otimes x + \delta_y \otimes R x

These are six convolutions, and two more for x and :math:`\delta` unless they are cached; a
gradient takes three. The gradient itself is not computed.

References:
    Fast Exact Multiplication by the Hessian (Pearlmutter, 1994)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_aten: Any = torch.ops.aten

Back = tuple[list[Tensor | None], list[Tensor]]
"""What goes back to every input, None where nothing has to, and the weights' derivatives."""


class Weight(NamedTuple):
    """An effective weight and its derivative along v."""

    value: Tensor
    tangent: Tensor | None = None


class Inputs(NamedTuple):
    """The arguments of a step.

    Attributes:
        values: x of every input.
        weights: Weights of the step.
        kept: Results that the step kept in the forward pass.
        needed: Whether each input depends on weights.
    """

    values: list[Tensor]
    weights: list[Weight]
    kept: Any
    needed: list[bool]


class StepRule(Protocol):
    """Computes and differentiates a step, in four passes."""

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Any]:
        """Compute y, and results to keep."""

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        """Compute R y from R x, None where it is zero."""

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        """Backpropagate the gradient to the inputs and, if requested, the weights."""

    def pull(
        self, at: Inputs, tangents: list[Tensor | None], g: Tensor, tangent_g: Tensor
    ) -> Back:
        """Compute R of the results of :meth:`backward`."""


class PiecewiseLinear(ABC):
    """A step without second derivative.

    Its backward pass is linear in g, so R of it is the backward pass of R g.
    """

    @abstractmethod
    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        """Backpropagate the gradient to the inputs."""

    def pull(
        self, at: Inputs, tangents: list[Tensor | None], g: Tensor, tangent_g: Tensor
    ) -> Back:
        return self.backward(at, tangent_g, by_weights=True)


class ReLU(PiecewiseLinear):
    """The positive part."""

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Tensor]:
        y = F.relu(xs[0])
        return y, y

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        return _positive(present(tangents[0]), at.kept)

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        return [_positive(g, at.kept)], []


class MaxPool(PiecewiseLinear):
    """The maximum of every window.

    Args:
        module: The module with the window.
    """

    def __init__(self, module: nn.MaxPool2d) -> None:
        self._window = (
            *(module.kernel_size, module.stride, module.padding),
            *(module.dilation, module.ceil_mode),
        )

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Tensor]:
        y, places = F.max_pool2d(xs[0], *self._window, return_indices=True)
        return y, places

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        (rx,), places = tangents, at.kept
        return present(rx).flatten(2).gather(2, places.flatten(2)).view(places.shape)

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        sizes = [[n, n] if isinstance(n, int) else list(n) for n in self._window[:4]]
        return [
            _aten.max_pool2d_with_indices_backward(
                g, at.values[0], *sizes, self._window[4], at.kept
            )
        ], []


class SampleWise(PiecewiseLinear):
    """A linear map without weights, such as an average or a change of shape.

    Args:
        function: A linear function.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, None]:
        return self._function(xs[0]), None

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        return self._function(present(tangents[0]))

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        with torch.enable_grad():
            x = at.values[0].detach().requires_grad_()
            return [torch.autograd.grad(self._function(x), x, g)[0]], []


class Add(PiecewiseLinear):
    """The sum of two values, broadcast to one shape."""

    def forward(
        self, xs: list[Tensor], weights: list[Weight]
    ) -> tuple[Tensor, tuple[torch.Size, ...]]:
        y = xs[0] + xs[1]
        return y, (xs[0].shape, xs[1].shape, y.shape)

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        present = [rx for rx in tangents if rx is not None]
        total = present[0] + present[1] if len(present) == 2 else present[0]
        return total.expand(at.kept[2])

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        return [g.sum_to_size(shape) for shape in at.kept[:2]], []


class Smooth:
    r"""A smooth elementwise function, with torch's derivatives.

    .. math:: R\delta_x = f'(x)\,R\delta_y + f''(x)\,R x\,\delta_y

    Args:
        function: f.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = xs[0].detach().requires_grad_()
            y = self._function(x)
            return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        gradient: Tensor = at.kept
        return gradient * present(tangents[0])

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        return [at.kept * g], []

    def pull(
        self, at: Inputs, tangents: list[Tensor | None], g: Tensor, tangent_g: Tensor
    ) -> Back:
        with torch.enable_grad():
            x = at.values[0].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._function(x).sum(), x, create_graph=True)
            (curvature,) = torch.autograd.grad(
                gradient, x, present(tangents[0]), materialize_grads=True
            )
        return [torch.addcmul(at.kept * tangent_g, curvature, g)], []


def tangent_of(weight: Weight) -> Tensor:
    """Return a weight's derivative along v."""
    return present(weight.tangent)


def present(tensor: Tensor | None) -> Tensor:
    """Return a tensor that is not None."""
    if tensor is None:
        raise RuntimeError("a step that depends on weights has no derivative along them")
    return tensor


def _positive(g: Tensor, y: Tensor) -> Tensor:
    """G where y is above 0."""
    masked: Tensor = _aten.threshold_backward(g, y, 0)
    return masked
