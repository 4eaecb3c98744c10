"""The R-operator of layers with weights: convolutions, linear layers and BatchNorm."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune.landscape.curvature.captured.rules import Back, Inputs, Weight, tangent_of

_aten: Any = torch.ops.aten


class Bilinear:
    """A layer y = W x + b, the base class of convolutions and linear layers."""

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

    def push(self, at: Inputs, tangents: list[Tensor | None]) -> Tensor:
        (x,), (w, b), (rx,) = at.values, at.weights, tangents
        v, rb = tangent_of(w), tangent_of(b)
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

    def pull(
        self, at: Inputs, tangents: list[Tensor | None], g: Tensor, tangent_g: Tensor
    ) -> Back:
        (x,), (w, _), (rx,) = at.values, at.weights, tangents
        if rx is None:
            return self.backward(at, tangent_g, by_weights=True)
        back, of_w = self.to_both(tangent_g, x, w.value)
        back += self.to_input(g, x, tangent_of(w))
        of_w += self.to_weight(g, rx, w.value)
        return [back], [of_w, self.to_bias(tangent_g)]


class Convolution(Bilinear):
    """A convolution with zero padding.

    Args:
        module: The module with stride, padding, dilation and groups.
    """

    def __init__(self, module: Any) -> None:
        self._sizes = (module.stride, module.padding, module.dilation, False)
        self._rest = ([0] * len(module.stride), module.groups)
        # A 1x1 convolution with a stride ignores some pixels. Slicing the input is faster, and it
        # avoids oneDNN's derivative by the weights, which writes out of bounds for few channels
        # in channels_last.
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


def _compact(part: Tensor, like: Tensor) -> Tensor:
    """Copy a tensor without gaps in memory, in the memory format of another tensor."""
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return part.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _along(channels: Tensor, x: Tensor) -> Tensor:
    return channels.view(-1, *(1,) * (x.dim() - 2))
