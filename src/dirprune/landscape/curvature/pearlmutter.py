r"""Pearlmutter's R-operator, step by step: a Hessian-vector product for two gradients or so.

:math:`R\{f\}(w) = \partial_\varepsilon f(w + \varepsilon v)|_{\varepsilon = 0}` applied to the
forward and the backward pass of a layer :math:`y = W * x + b` gives

.. math::
    R y &= W * R x + V * x + R b \\
    R\delta_x &= W^\top * R\delta_y + V^\top * \delta_y \\
    R g_W &= R\delta_y \otimes x + \delta_y \otimes R x

which are six convolutions, and two for x and :math:`\delta` unless these are kept from an earlier
product, where a gradient takes three. The gradient itself is not needed and left out.

References:
    Fast Exact Multiplication by the Hessian (Pearlmutter, 1994)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_aten: Any = torch.ops.aten

Tensors = dict[str, Tensor]
"""By name."""

Back = tuple[list[Tensor | None], list[Tensor]]
"""What goes back to every input, None where nothing has to, and the weights' derivatives."""


class Weight(NamedTuple):
    """An effective weight and its derivative along v."""

    value: Tensor
    tangent: Tensor | None = None


class Inputs(NamedTuple):
    """What a step is computed from.

    Attributes:
        values: x of every input.
        weights: Of the step.
        kept: What the step itself kept on the way forward.
        needed: Which inputs depend on weights.
    """

    values: list[Tensor]
    weights: list[Weight]
    kept: Any
    needed: list[bool]


class Rule(Protocol):
    """How a step is computed and differentiated, in four passes."""

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Any]:
        """Compute y, and what to keep."""

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        """Compute R y from R x, None where it is zero."""

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        """Carry the derivative back; by the weights too if that is wanted."""

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        """Compute R of what :meth:`backward` returns."""


class Bilinear:
    """A layer y = W x + b: what a convolution and a linear layer have in common."""

    def apply(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Compute y."""
        raise NotImplementedError

    def to_input(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Compute W' g."""
        raise NotImplementedError

    def to_weight(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Compute the outer product of g and x."""
        raise NotImplementedError

    def to_both(self, g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both."""
        return self.to_input(g, x, w), self.to_weight(g, x, w)

    def to_bias(self, g: Tensor) -> Tensor:
        """Sum g over all but channels."""
        return g.sum(dim=[0, *range(2, g.dim())])

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, None]:
        w, b = weights
        return self.apply(xs[0], w.value, b.value), None

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        (x,), (w, b), (rx,) = at.values, at.weights, moved
        v, rb = _tangent(w), _tangent(b)
        out = self.apply(x, v, rb)
        if rx is not None:
            out += self.apply(rx, w.value, torch.zeros_like(rb))
        return out

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        (x,), (w, _) = at.values, at.weights
        if not by_weights:
            return [self.to_input(g, x, w.value) if at.needed[0] else None], []
        if not at.needed[0]:
            return [None], [self.to_weight(g, x, w.value), self.to_bias(g)]
        back, of_w = self.to_both(g, x, w.value)
        return [back], [of_w, self.to_bias(g)]

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        (x,), (w, _), (rx,) = at.values, at.weights, moved
        if rx is None:
            return self.backward(at, moved_g, by_weights=True)
        back, of_w = self.to_both(moved_g, x, w.value)
        back += self.to_input(g, x, _tangent(w))
        of_w += self.to_weight(g, rx, w.value)
        return [back], [of_w, self.to_bias(moved_g)]


class Convolution(Bilinear):
    """A convolution with zero padding.

    Args:
        module: Whose stride, padding, dilation and groups are taken.
    """

    def __init__(self, module: Any) -> None:
        self._sizes = (module.stride, module.padding, module.dilation, False)
        self._rest = ([0] * len(module.stride), module.groups)
        # A 1x1 convolution with a stride reads some pixels and ignores the others. Said like that
        # it is not only faster: oneDNN's own derivative by its weights overruns its memory for few
        # channels in channels_last.
        self._pixels: tuple[Any, ...] | None = None
        if {*module.kernel_size} == {1} and {*module.padding} == {0} and {*module.stride} != {1}:
            self._pixels = (..., *(slice(None, None, n) for n in module.stride))
            self._sizes = ([1] * len(module.stride), *self._sizes[1:])

    def apply(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self._pixels is not None:
            x = _compact(x[self._pixels], x)
        return torch.convolution(x, w, b, *self._sizes, *self._rest)

    def to_input(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        back: Tensor = self._back(g, x, w, True, False)[0]
        return back

    def to_weight(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        of_w: Tensor = self._back(g, x, w, False, True)[1]
        return of_w

    def to_both(self, g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        back, of_w, _ = self._back(g, x, w, True, True)
        return back, of_w

    def _back(self, g: Tensor, x: Tensor, w: Tensor, *wanted: bool) -> Any:
        read = x if self._pixels is None else _compact(x[self._pixels], x)
        back, of_w, of_b = _aten.convolution_backward(
            *(g, read, w, None, *self._sizes, *self._rest, [*wanted, False])
        )
        if self._pixels is not None and back is not None:
            wide = torch.zeros_like(x)
            wide[self._pixels] = back
            back = wide
        return back, of_w, of_b


class LinearLayer(Bilinear):
    """A linear layer on the last dimension."""

    def apply(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, w, b)

    def to_input(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return g @ w

    def to_weight(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return g.flatten(0, -2).mT @ x.flatten(0, -2)

    def to_bias(self, g: Tensor) -> Tensor:
        return g.flatten(0, -2).sum(0)


class Scale(Bilinear):
    """A factor and a shift for every channel: BatchNorm that could not be folded."""

    def apply(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.addcmul(_along(b, x), x, _along(w, x))

    def to_input(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return g * _along(w, g)

    def to_weight(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return self.to_bias(g * x)


class ReLU:
    """The positive part; its second derivative is zero."""

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Tensor]:
        y = F.relu(xs[0])
        return y, y

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        return _positive(_present(moved[0]), at.kept)

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        return [_positive(g, at.kept)], []

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        return self.backward(at, moved_g, by_weights=True)


class MaxPool:
    """The maximum of every window.

    Args:
        module: Whose window is taken.
    """

    def __init__(self, module: nn.MaxPool2d) -> None:
        self._window = (
            *(module.kernel_size, module.stride, module.padding),
            *(module.dilation, module.ceil_mode),
        )

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, Tensor]:
        y, places = F.max_pool2d(xs[0], *self._window, return_indices=True)
        return y, places

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        (rx,), places = moved, at.kept
        return _present(rx).flatten(2).gather(2, places.flatten(2)).view(places.shape)

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        sizes = [[n, n] if isinstance(n, int) else list(n) for n in self._window[:4]]
        return [
            _aten.max_pool2d_with_indices_backward(
                g, at.values[0], *sizes, self._window[4], at.kept
            )
        ], []

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        return self.backward(at, moved_g, by_weights=True)


class SampleWise:
    """A linear map without weights, such as an average or a change of shape.

    Args:
        function: Linear.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, None]:
        return self._function(xs[0]), None

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        return self._function(_present(moved[0]))

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        with torch.enable_grad():
            x = at.values[0].detach().requires_grad_()
            return [torch.autograd.grad(self._function(x), x, g)[0]], []

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        return self.backward(at, moved_g, by_weights=True)


class Add:
    """The sum of two values of one shape."""

    def forward(self, xs: list[Tensor], weights: list[Weight]) -> tuple[Tensor, None]:
        return xs[0] + xs[1], None

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        present = [rx for rx in moved if rx is not None]
        return present[0] + present[1] if len(present) == 2 else present[0]

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        return [g, g], []

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        return [moved_g, moved_g], []


class Smooth:
    r"""A smooth function of every element, by torch's own derivatives.

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

    def push(self, at: Inputs, moved: list[Tensor | None]) -> Tensor:
        slope: Tensor = at.kept
        return slope * _present(moved[0])

    def backward(self, at: Inputs, g: Tensor, by_weights: bool) -> Back:
        return [at.kept * g], []

    def pull(self, at: Inputs, moved: list[Tensor | None], g: Tensor, moved_g: Tensor) -> Back:
        with torch.enable_grad():
            x = at.values[0].detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._function(x).sum(), x, create_graph=True)
            (bent,) = torch.autograd.grad(slope, x, _present(moved[0]), materialize_grads=True)
        return [torch.addcmul(at.kept * moved_g, bent, g)], []


def _tangent(weight: Weight) -> Tensor:
    return _present(weight.tangent)


def _present(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise RuntimeError("a step that depends on weights has no derivative along them")
    return tensor


def _compact(part: Tensor, like: Tensor) -> Tensor:
    """Without gaps in memory, in the memory format of another."""
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return part.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _positive(g: Tensor, y: Tensor) -> Tensor:
    """G where y is above 0."""
    masked: Tensor = _aten.threshold_backward(g, y, 0)
    return masked


def _along(channels: Tensor, x: Tensor) -> Tensor:
    return channels.view(-1, *(1,) * (x.dim() - 2))
