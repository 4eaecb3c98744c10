r"""A network in evaluation mode as a list of steps, with its frozen BatchNorm folded away.

Where BatchNorm does not change its statistics it is an affine map, and the convolution before it
takes it in:

.. math:: W' = \frac{\gamma}{\sigma} W, \qquad b' = \beta + \frac{\gamma}{\sigma} (b - m)

The steps know the effective weights :math:`(W', b')` only. They are a function of the network's
own weights, which costs next to nothing to differentiate.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dirprune.landscape.pearlmutter import (
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


@dataclass
class Graph:
    """What a network computes.

    Attributes:
        steps: In order; the value of step i is number i + 1.
        output: Which value is the network's output.
        depends: Which values depend on weights.
        read: Which values a step needs again once it is computed.
        recipes: For every effective weight how it follows from the network's own.
    """

    steps: list[Step] = field(default_factory=list)
    output: int = 0
    depends: list[bool] = field(default_factory=lambda: [False])
    read: set[int] = field(default_factory=set)
    recipes: dict[str, Callable[[Tensors], Tensor]] = field(default_factory=dict)

    def effective(self, own: Tensors) -> Tensors:
        """Compute the effective weights from the network's own parameters by name."""
        return {name: recipe(own) for name, recipe in self.recipes.items()}

    def push(self, own: Tensors, tangent: Tensors) -> tuple[Tensors, Tensors]:
        r"""Compute the effective weights :math:`u = \varphi(w)` and :math:`\varphi'(w) v`.

        Args:
            own: w, the network's own parameters by name.
            tangent: v, likewise.

        Returns:
            Both by names of effective weights, in the dtype of w but computed in float64.
        """
        with torch.enable_grad():
            w = {name: p.detach().double().requires_grad_() for name, p in own.items()}
            u = self.effective(w)
            dummy = {name: torch.zeros_like(p, requires_grad=True) for name, p in u.items()}
            back = _gradients(_inner(u, dummy), w, create_graph=True)
            moved = _gradients(_inner(back, tangent), dummy)
        like = next(iter(own.values()))
        return (
            {name: p.detach().to(like) for name, p in u.items()},
            {name: p.to(like) for name, p in moved.items()},
        )

    def pull(
        self, own: Tensors, tangent: Tensors, curved: Tensors, gradient: Tensors | None
    ) -> Tensors:
        r"""Carry a product from the effective weights back to the network's own.

        .. math:: H v = \varphi'(w)^\top \tilde H \varphi'(w) v
            + \nabla_w \big( \nabla_w \langle \tilde g, \varphi(w) \rangle^\top v \big)

        Args:
            own: w.
            tangent: v.
            curved: The product by the effective weights, in float64.
            gradient: Of the loss by the effective weights, None to leave its part out.

        Returns:
            With the names of w, in float64; nothing if there was no batch.
        """
        if not curved:
            return {}
        with torch.enable_grad():
            w = {name: p.detach().double().requires_grad_() for name, p in own.items()}
            u = self.effective(w)
            result = _gradients(_inner(u, curved), w, retain_graph=True)
            if gradient is None:
                return result
            slope = _gradients(_inner(u, gradient), w, create_graph=True)
            bent = _inner(slope, tangent)
            if not bent.requires_grad:
                return result
            second = _gradients(bent, w)
        return {name: part + second[name] for name, part in result.items()}


def _inner(one: Tensors, other: Tensors) -> Tensor:
    products = [(one[name] * other[name].double()).sum() for name in one if name in other]
    return torch.stack(products).sum()


def _gradients(of: Tensor, by: Tensors, **options: bool) -> Tensors:
    parts: Any = torch.autograd.grad(of, list(by.values()), materialize_grads=True, **options)  # type: ignore[call-overload]
    return dict(zip(by, parts))


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
            return self._batchnorm(path, module, x)
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
        weight = self._names[f"{path}.weight"]
        bias = self._names[f"{path}.bias"] if module.bias is not None else None
        users = list(node.users)
        after = users[0] if len(users) == 1 else None
        folded = self._modules.get(str(after.target)) if after is not None else None
        zero = module.weight.new_zeros(len(module.weight))

        def bias_of(own: Tensors) -> Tensor:
            return zero.to(own[weight]) if bias is None else own[bias]

        if after is None or after.op != "call_module" or not isinstance(folded, _BatchNorm):
            recipes = (lambda own: own[weight], bias_of)
            return self._add(rule, (x,), {f"{path}.weight": recipes[0], f"{path}.bias": bias_of})
        scale, shift = self._normalisation(str(after.target), folded)
        rows = (-1,) + (1,) * (module.weight.dim() - 1)
        place = self._add(
            rule,
            (x,),
            {
                f"{path}.weight": lambda own: own[weight] * scale(own).view(rows),
                f"{path}.bias": lambda own: shift(own) + bias_of(own) * scale(own),
            },
        )
        self._values[after] = place
        return place

    def _batchnorm(self, path: str, module: _BatchNorm, x: int) -> int:
        scale, shift = self._normalisation(path, module)
        return self._add(Scale(), (x,), {f"{path}.scale": scale, f"{path}.shift": shift})

    def _normalisation(
        self, path: str, module: _BatchNorm
    ) -> tuple[Callable[[Tensors], Tensor], Callable[[Tensors], Tensor]]:
        if module.running_mean is None or module.running_var is None:
            raise Uncaptured(f"{path} normalises by the batch")
        mean, inverse = module.running_mean, (module.running_var + module.eps).rsqrt()
        gamma, beta = (self._names.get(f"{path}.{n}") for n in ("weight", "bias"))

        def scale(own: Tensors) -> Tensor:
            return inverse if gamma is None else own[gamma] * inverse

        def shift(own: Tensors) -> Tensor:
            return (0 if beta is None else own[beta]) - mean * scale(own)

        return scale, shift

    def _add(
        self,
        rule: Rule,
        inputs: tuple[int, ...],
        recipes: dict[str, Callable[[Tensors], Tensor]] | None = None,
    ) -> int:
        graph, recipes = self._graph, recipes or {}
        # The same layer called twice has the same effective weights.
        graph.recipes.update(recipes)
        if isinstance(rule, (Bilinear, MaxPool, SampleWise, Smooth)):
            graph.read.update(inputs)
        graph.steps.append(Step(rule, inputs, tuple(recipes)))
        graph.depends.append(bool(recipes) or any(graph.depends[i] for i in inputs))
        return len(graph.steps)

    def _value(self, argument: Any) -> int:
        if not isinstance(argument, fx.Node) or argument not in self._values:
            raise Uncaptured(f"{argument} is no value of the network")
        return self._values[argument]
