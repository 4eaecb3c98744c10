r"""A network in evaluation mode as a list of steps, with frozen BatchNorm folded into layers.

BatchNorm with fixed statistics is an affine map, which is folded into the convolution before it:

.. math:: W' = \frac{\gamma}{\sigma} W, \qquad b' = \beta + \frac{\gamma}{\sigma} (b - m)

The steps use only the effective weights :math:`u = (W', b')`, which are a function of the
network's weights, :math:`u = \varphi(w)`. The chain rule gives the product by the weights:

.. math:: H v = \varphi'(w)^\top \tilde H \varphi'(w) v
    + \nabla_w \big( \nabla_w \langle \tilde g, \varphi(w) \rangle^\top v \big)
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dirprune.landscape.curvature.captured.rules import StepRule
from dirprune.landscape.objectives.points import NamedTensors


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        rule: The rule that computes and differentiates it.
        inputs: Numbers of the values that it reads; 0 is the network's input.
        weights: Names of its effective weights.
    """

    rule: StepRule
    inputs: tuple[int, ...]
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Affine:
    r"""The map from the network's weights to a step's effective weights.

    With :math:`s = \gamma / \sigma`: :math:`W' = s W` and :math:`b' = \beta + s (b - m)`.

    Attributes:
        name: Name of the effective weights.
        weight: Name of W, None if it is 1.
        bias: Name of b, None if it is 0.
        gamma: Name of the factor, None if it is 1.
        beta: Name of the shift, None if it is 0.
        mean: m with shape (C,), None if nothing is folded.
        inverse: :math:`1 / \sigma` with shape (C,).
        channels: C.
    """

    name: str
    weight: str | None
    bias: str | None
    channels: int
    gamma: str | None = None
    beta: str | None = None
    mean: Tensor | None = None
    inverse: Tensor | None = None

    def effective(self, own: NamedTensors) -> tuple[Tensor, Tensor]:
        """Compute W' and b'."""
        w, b = self._weight(own), self._or_zero(self.bias, own)
        if self.mean is None:
            return w, b
        s = self._factor(own)
        return _rows(s, w) * w, self._or_zero(self.beta, own) + s * (b - self.mean)

    def push(self, own: NamedTensors, v: NamedTensors) -> tuple[Tensor, Tensor]:
        """Compute the derivatives of W' and b' along v."""
        tangent_w = self._weight_tangent(own, v)
        tangent_b = self._or_zero(self.bias, v, own)
        if self.mean is None:
            return tangent_w, tangent_b
        w, b, s = self._weight(own), self._or_zero(self.bias, own), self._factor(own)
        tangent_s = self._factor_tangent(v)
        return (
            _rows(s, w) * tangent_w + _rows(tangent_s, w) * w,
            self._or_zero(self.beta, v, own) + tangent_s * (b - self.mean) + s * tangent_b,
        )

    def pull(
        self,
        own: NamedTensors,
        v: NamedTensors,
        curved: tuple[Tensor, Tensor],
        gradient: tuple[Tensor, Tensor] | None,
    ) -> NamedTensors:
        """Backpropagate a product by W' and b' to the network's weights.

        Args:
            own: The network's weights.
            v: The vector of the product.
            curved: The product.
            gradient: Gradient of the loss by W' and b', or None to ignore the curvature of this
                map.
        """
        curved_w, curved_b = curved
        if self.mean is None or self.inverse is None:
            result = {self.weight: curved_w, self.bias: curved_b}
            return {name: part for name, part in result.items() if name is not None}
        w, b, s = self._weight(own), self._or_zero(self.bias, own), self._factor(own)
        of_w, of_b = _rows(s, w) * curved_w, s * curved_b
        of_s = _over_rows(curved_w * w) + curved_b * (b - self.mean)
        if gradient is not None:
            gradient_w, gradient_b = gradient
            tangent_s = self._factor_tangent(v)
            of_w = of_w + _rows(tangent_s, w) * gradient_w
            of_b = of_b + tangent_s * gradient_b
            of_s = of_s + _over_rows(gradient_w * self._weight_tangent(own, v))
            of_s = of_s + gradient_b * self._or_zero(self.bias, v, own)
        result = {
            **{self.weight: of_w, self.bias: of_b},
            **{self.gamma: of_s * self.inverse, self.beta: curved_b},
        }
        return {name: part for name, part in result.items() if name is not None}

    def _weight(self, own: NamedTensors) -> Tensor:
        return self._ones(own) if self.weight is None else own[self.weight]

    def _weight_tangent(self, own: NamedTensors, v: NamedTensors) -> Tensor:
        return torch.zeros_like(self._ones(own)) if self.weight is None else v[self.weight]

    def _factor(self, own: NamedTensors) -> Tensor:
        inverse = self._ones(own) if self.inverse is None else self.inverse
        return inverse if self.gamma is None else own[self.gamma] * inverse

    def _factor_tangent(self, v: NamedTensors) -> Tensor:
        inverse = self._ones(v) if self.inverse is None else self.inverse
        return torch.zeros_like(inverse) if self.gamma is None else v[self.gamma] * inverse

    def _or_zero(
        self, name: str | None, own: NamedTensors, like: NamedTensors | None = None
    ) -> Tensor:
        return torch.zeros_like(self._ones(like or own)) if name is None else own[name]

    def _ones(self, own: NamedTensors) -> Tensor:
        return next(iter(own.values())).new_ones(self.channels)


@dataclass
class StepGraph:
    """The steps of a network.

    Attributes:
        steps: The steps in order; the value of step i is number i + 1.
        output: Number of the value that is the network's output.
        depends: Whether each value depends on weights.
        read: Whether each value is read again in the backward pass.
        affine: Maps from the network's weights to the effective weights.
    """

    steps: list[Step] = field(default_factory=list)
    output: int = 0
    depends: list[bool] = field(default_factory=lambda: [False])
    read: set[int] = field(default_factory=set)
    affine: list[Affine] = field(default_factory=list)

    def effective(self, own: NamedTensors) -> NamedTensors:
        """Compute the effective weights from the network's own parameters by name."""
        return _named(self.affine, [one.effective(own) for one in self.affine])

    def push(self, own: NamedTensors, v: NamedTensors) -> NamedTensors:
        """Compute their derivative along v."""
        return _named(self.affine, [one.push(own, v) for one in self.affine])

    def pull(
        self,
        own: NamedTensors,
        v: NamedTensors,
        curved: NamedTensors,
        gradient: NamedTensors | None,
    ) -> NamedTensors:
        """Backpropagate a product by the effective weights to the network's weights.

        Args:
            own: w.
            v: The vector of the product.
            curved: The product, for the effective weights that it has reached.
            gradient: Gradient of the loss by the effective weights, or None to ignore its term.
        """
        total: NamedTensors = {}
        for one in self.affine:
            names = (f"{one.name}.weight", f"{one.name}.bias")
            if names[0] not in curved:
                continue
            part = one.pull(
                *(own, v, (curved[names[0]], curved[names[1]])),
                None if gradient is None else (gradient[names[0]], gradient[names[1]]),
            )
            for name, tensor in part.items():
                total[name] = total[name] + tensor if name in total else tensor
        return total


def _named(affine: list[Affine], pairs: list[tuple[Tensor, Tensor]]) -> NamedTensors:
    return {
        f"{one.name}.{kind}": tensor
        for one, pair in zip(affine, pairs)
        for kind, tensor in zip(("weight", "bias"), pair)
    }


def _rows(factor: Tensor, w: Tensor) -> Tensor:
    return factor.view(-1, *(1,) * (w.dim() - 1))


def _over_rows(w: Tensor) -> Tensor:
    return w.flatten(1).sum(1) if w.dim() > 1 else w
