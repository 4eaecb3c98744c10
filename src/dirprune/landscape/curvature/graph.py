r"""A network in evaluation mode as a list of steps, with its frozen BatchNorm folded away.

Where BatchNorm does not change its statistics it is an affine map, and the convolution before it
takes it in:

.. math:: W' = \frac{\gamma}{\sigma} W, \qquad b' = \beta + \frac{\gamma}{\sigma} (b - m)

The steps know the effective weights :math:`u = (W', b')` only, which are a function of the
network's own, :math:`u = \varphi(w)`. With its derivatives a product goes there and back:

.. math:: H v = \varphi'(w)^\top \tilde H \varphi'(w) v
    + \nabla_w \big( \nabla_w \langle \tilde g, \varphi(w) \rangle^\top v \big)
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dirprune.landscape.curvature.pearlmutter import (
    Add,
    Bilinear,
    Convolution,
    LinearLayer,
    MaxPool,
    ReLU,
    Rule,
    SampleWise,
    Scale,
    Smooth,
    Tensors,
)


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        rule: How it is computed and differentiated.
        inputs: Which earlier values it takes; 0 is the network's input.
        weights: Names of its effective weights.
    """

    rule: Rule
    inputs: tuple[int, ...]
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Affine:
    r"""How a step's effective weights follow from the network's own.

    With :math:`s = \gamma / \sigma` it is :math:`W' = s W` and :math:`b' = \beta + s (b - m)`.

    Attributes:
        name: Of the effective weights.
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

    def effective(self, own: Tensors) -> tuple[Tensor, Tensor]:
        """Compute W' and b'."""
        w, b = self._weight(own), self._or_zero(self.bias, own)
        if self.mean is None:
            return w, b
        s = self._factor(own)
        return _rows(s, w) * w, self._or_zero(self.beta, own) + s * (b - self.mean)

    def push(self, own: Tensors, v: Tensors) -> tuple[Tensor, Tensor]:
        """Compute the derivatives of W' and b' along v."""
        moved_w = self._moved_weight(own, v)
        moved_b = self._or_zero(self.bias, v, own)
        if self.mean is None:
            return moved_w, moved_b
        w, b, s = self._weight(own), self._or_zero(self.bias, own), self._factor(own)
        moved_s = self._moved_factor(v)
        return (
            _rows(s, w) * moved_w + _rows(moved_s, w) * w,
            self._or_zero(self.beta, v, own) + moved_s * (b - self.mean) + s * moved_b,
        )

    def pull(
        self,
        own: Tensors,
        v: Tensors,
        curved: tuple[Tensor, Tensor],
        gradient: tuple[Tensor, Tensor] | None,
    ) -> Tensors:
        """Carry a product by W' and b' back to the network's own weights.

        Args:
            own: The network's weights.
            v: What was multiplied.
            curved: The product.
            gradient: Of the loss by W' and b', None to leave out the curvature of this map.
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
            moved_s = self._moved_factor(v)
            of_w = of_w + _rows(moved_s, w) * gradient_w
            of_b = of_b + moved_s * gradient_b
            of_s = of_s + _over_rows(gradient_w * self._moved_weight(own, v))
            of_s = of_s + gradient_b * self._or_zero(self.bias, v, own)
        result = {
            **{self.weight: of_w, self.bias: of_b},
            **{self.gamma: of_s * self.inverse, self.beta: curved_b},
        }
        return {name: part for name, part in result.items() if name is not None}

    def _weight(self, own: Tensors) -> Tensor:
        return self._ones(own) if self.weight is None else own[self.weight]

    def _moved_weight(self, own: Tensors, v: Tensors) -> Tensor:
        return torch.zeros_like(self._ones(own)) if self.weight is None else v[self.weight]

    def _factor(self, own: Tensors) -> Tensor:
        inverse = self._ones(own) if self.inverse is None else self.inverse
        return inverse if self.gamma is None else own[self.gamma] * inverse

    def _moved_factor(self, v: Tensors) -> Tensor:
        inverse = self._ones(v) if self.inverse is None else self.inverse
        return torch.zeros_like(inverse) if self.gamma is None else v[self.gamma] * inverse

    def _or_zero(self, name: str | None, own: Tensors, like: Tensors | None = None) -> Tensor:
        return torch.zeros_like(self._ones(like or own)) if name is None else own[name]

    def _ones(self, own: Tensors) -> Tensor:
        return next(iter(own.values())).new_ones(self.channels)


@dataclass
class Graph:
    """What a network computes.

    Attributes:
        steps: In order; the value of step i is number i + 1.
        output: Which value is the network's output.
        depends: Which values depend on weights.
        read: Which values a step needs again once it is computed.
        affine: How the effective weights follow from the network's own.
    """

    steps: list[Step] = field(default_factory=list)
    output: int = 0
    depends: list[bool] = field(default_factory=lambda: [False])
    read: set[int] = field(default_factory=set)
    affine: list[Affine] = field(default_factory=list)

    def effective(self, own: Tensors) -> Tensors:
        """Compute the effective weights from the network's own parameters by name."""
        return _named(self.affine, [one.effective(own) for one in self.affine])

    def push(self, own: Tensors, v: Tensors) -> Tensors:
        """Compute their derivative along v."""
        return _named(self.affine, [one.push(own, v) for one in self.affine])

    def pull(self, own: Tensors, v: Tensors, curved: Tensors, gradient: Tensors | None) -> Tensors:
        """Carry a product by the effective weights back to the network's own.

        Args:
            own: w.
            v: What was multiplied.
            curved: The product, by those of the effective weights that it reached.
            gradient: Of the loss by the effective weights, None to leave its part out.
        """
        total: Tensors = {}
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


def _named(affine: list[Affine], pairs: list[tuple[Tensor, Tensor]]) -> Tensors:
    return {
        f"{one.name}.{kind}": tensor
        for one, pair in zip(affine, pairs)
        for kind, tensor in zip(("weight", "bias"), pair)
    }


def _rows(factor: Tensor, w: Tensor) -> Tensor:
    return factor.view(-1, *(1,) * (w.dim() - 1))


def _over_rows(w: Tensor) -> Tensor:
    return w.flatten(1).sum(1) if w.dim() > 1 else w


class Uncaptured(Exception):
    """The network has an operation that steps cannot express."""


def capture(model: nn.Module) -> Graph:
    """Write down what a network in evaluation mode computes.

    Args:
        model: All of its modules in evaluation mode.

    Returns:
        Its steps.

    Raises:
        Uncaptured: If it cannot be traced, or has an operation that is not known.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
        >>> [type(step.rule).__name__ for step in capture(model).steps]
        ['Convolution', 'ReLU']
    """
    try:
        # A layer alone is not taken apart when it lies in another module.
        traced = fx.symbolic_trace(nn.Sequential(model))
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise Uncaptured(f"the model cannot be traced: {error}") from error
    return _Capture(traced, model).run()


class _Capture:
    def __init__(self, traced: fx.GraphModule, model: nn.Module) -> None:
        self._nodes = list(traced.graph.nodes)
        self._modules: dict[str, nn.Module] = dict(traced.named_modules())
        first = {id(p): name for name, p in model.named_parameters()}
        # A shared parameter is known by the first of its names.
        self._names = {
            name: first[id(p)] for name, p in traced.named_parameters(remove_duplicate=False)
        }
        self._values: dict[fx.Node, int] = {}
        self._graph = Graph()

    def run(self) -> Graph:
        for node in self._nodes:
            if node.op == "placeholder":
                if self._values:
                    raise Uncaptured("the model takes more than one input")
                self._values[node] = 0
            elif node.op == "output":
                (result,) = node.args
                self._graph.output = self._value(result)
            elif node not in self._values:
                self._values[node] = self._translate(node)
        if not self._graph.depends[self._graph.output]:
            raise Uncaptured("the output depends on no weight")
        return self._graph

    def _translate(self, node: fx.Node) -> int:
        if node.op == "call_module":
            return self._module(node, str(node.target), self._modules[str(node.target)])
        if node.op in ("call_function", "call_method"):
            return self._function(node)
        raise Uncaptured(f"{node.op} {node.target} is not known")

    def _module(self, node: fx.Node, path: str, module: nn.Module) -> int:
        if len(node.args) != 1 or node.kwargs:
            raise Uncaptured(f"{path} takes more than one input")
        x = self._value(node.args[0])
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise Uncaptured(f"{path} pads by {module.padding_mode} {module.padding}")
            return self._affine(node, path, module, Convolution(module), x)
        if isinstance(module, nn.Linear):
            return self._affine(node, path, module, LinearLayer(), x)
        if isinstance(module, _BatchNorm):
            return self._batchnorm(node, path, module, x)
        if isinstance(module, nn.ReLU):
            return self._add(ReLU(), (x,))
        if isinstance(module, nn.MaxPool2d):
            return self._add(MaxPool(module), (x,))
        if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)):
            return x
        if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AvgPool2d)):
            return self._add(SampleWise(module), (x,))
        if isinstance(module, nn.Flatten) and module.start_dim == 1:
            return self._add(SampleWise(module), (x,))
        if isinstance(module, (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU)):
            return self._add(Smooth(module), (x,))
        raise Uncaptured(f"{path} is a {type(module).__name__}")

    def _function(self, node: fx.Node) -> int:
        target, args = node.target, node.args
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if target in (operator.add, operator.iadd, torch.add) and len(args) == 2:
            if not node.kwargs:
                return self._add(Add(), (self._value(args[0]), self._value(args[1])))
        elif target in (F.relu, torch.relu, "relu", "relu_"):
            return self._add(ReLU(), (self._value(args[0]),))
        elif target is F.dropout:
            return self._value(args[0])
        elif target in (torch.flatten, "flatten") and args[1:] == (1,) and not node.kwargs:
            return self._add(SampleWise(nn.Flatten()), (self._value(args[0]),))
        elif target in (torch.tanh, torch.sigmoid, F.gelu, F.silu) and not node.kwargs:
            return self._add(Smooth(target), (self._value(args[0]),))
        raise Uncaptured(f"the function {name} is not known")

    def _affine(self, node: fx.Node, path: str, module: Any, rule: Rule, x: int) -> int:
        """A convolution or linear layer, together with the BatchNorm that alone reads it."""
        users = list(node.users)
        after = users[0] if len(users) == 1 else None
        follower = self._modules.get(str(after.target)) if after is not None else None
        folded: dict[str, Any] = {}
        if after is not None and after.op == "call_module" and isinstance(follower, _BatchNorm):
            folded = self._normalisation(str(after.target), follower)
        # By the call, not the layer: one that is called twice may be normalised in two ways.
        affine = Affine(
            name=node.name,
            weight=self._names[f"{path}.weight"],
            bias=self._names.get(f"{path}.bias"),
            channels=len(module.weight),
            **folded,
        )
        place = self._add(rule, (x,), affine)
        if folded and after is not None:
            self._values[after] = place
        return place

    def _batchnorm(self, node: fx.Node, path: str, module: _BatchNorm, x: int) -> int:
        folded = self._normalisation(path, module)
        affine = Affine(node.name, None, None, module.num_features, **folded)
        return self._add(Scale(), (x,), affine)

    def _normalisation(self, path: str, module: _BatchNorm) -> dict[str, Any]:
        if module.running_mean is None or module.running_var is None:
            raise Uncaptured(f"{path} normalises by the batch")
        return {
            "mean": module.running_mean,
            "inverse": (module.running_var + module.eps).rsqrt(),
            "gamma": self._names.get(f"{path}.weight"),
            "beta": self._names.get(f"{path}.bias"),
        }

    def _add(self, rule: Rule, inputs: tuple[int, ...], affine: Affine | None = None) -> int:
        graph, weights = self._graph, tuple[str, ...]()
        if affine is not None:
            graph.affine.append(affine)
            weights = (f"{affine.name}.weight", f"{affine.name}.bias")
        if isinstance(rule, (Bilinear, MaxPool, SampleWise, Smooth)):
            graph.read.update(inputs)
        graph.steps.append(Step(rule, inputs, weights))
        graph.depends.append(bool(weights) or any(graph.depends[i] for i in inputs))
        return len(graph.steps)

    def _value(self, argument: Any) -> int:
        if not isinstance(argument, fx.Node) or argument not in self._values:
            raise Uncaptured(f"{argument} is no value of the network")
        return self._values[argument]
