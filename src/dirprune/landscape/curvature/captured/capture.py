"""Capturing a network in evaluation mode as a list of steps."""

import operator
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dirprune.landscape.curvature.captured.graph import Affine, Step, StepGraph
from dirprune.landscape.curvature.captured.layers import Bilinear, Convolution, LinearLayer, Scale
from dirprune.landscape.curvature.captured.rules import (
    Add,
    MaxPool,
    ReLU,
    SampleWise,
    Smooth,
    StepRule,
)

_ELEMENTWISE = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU)


class Uncaptured(Exception):
    """The network has an operation that steps cannot express."""


def capture(model: nn.Module, example: Tensor | None = None) -> StepGraph:
    """Capture what a network in evaluation mode computes.

    Args:
        model: All of its modules in evaluation mode.
        example: Inputs of the model. BatchNorm is folded into a linear layer only where the
            example shows that both have the same channels.

    Returns:
        Its steps.

    Raises:
        Uncaptured: If it cannot be traced, or has an unknown operation.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
        >>> [type(step.rule).__name__ for step in capture(model).steps]
        ['Convolution', 'ReLU']
    """
    try:
        # A layer is only traced as one step if it is inside of another module.
        traced = fx.symbolic_trace(nn.Sequential(model))
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        raise Uncaptured(f"the model cannot be traced: {error}") from error
    if example is not None:
        try:
            with torch.no_grad():
                ShapeProp(traced).propagate(example.clone())
        except Exception as error:
            raise Uncaptured(f"the traced model cannot run: {error}") from error
    return _Capture(traced, model).run()


class _Capture:
    def __init__(self, traced: fx.GraphModule, model: nn.Module) -> None:
        self._nodes = list(traced.graph.nodes)
        self._modules: dict[str, nn.Module] = dict(traced.named_modules())
        first = {id(p): name for name, p in model.named_parameters()}
        # A shared parameter is identified by its first name.
        self._names = {
            name: first[id(p)] for name, p in traced.named_parameters(remove_duplicate=False)
        }
        self._values: dict[fx.Node, int] = {}
        self._graph = StepGraph()

    def run(self) -> StepGraph:
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
        if module._forward_hooks or module._forward_pre_hooks:
            raise Uncaptured(f"{path} has a forward hook")
        x = self._value(node.args[0])
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise Uncaptured(f"{path} pads by {module.padding_mode} {module.padding}")
            return self._affine(node, path, module, Convolution(module), x)
        if isinstance(module, nn.Linear):
            return self._affine(node, path, module, LinearLayer(), x)
        if isinstance(module, _BatchNorm):
            return self._batchnorm(node, path, module, x)
        if isinstance(module, nn.MaxPool2d) and not module.return_indices:
            return self._add(MaxPool(module), (x,))
        if isinstance(module, nn.Identity):
            return x
        if isinstance(module, _DropoutNd):
            return self._dropout(x, path, module.p, module.training)
        if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AvgPool2d)):
            return self._add(SampleWise(module), (x,))
        if isinstance(module, nn.Flatten) and module.start_dim == 1:
            return self._add(SampleWise(module), (x,))
        if isinstance(module, (nn.ReLU, *_ELEMENTWISE)):
            inplace = getattr(module, "inplace", False)
            if inplace:
                module = copy(module)
                module.inplace = False
            rule = ReLU() if isinstance(module, nn.ReLU) else Smooth(module)
            return self._elementwise(rule, node, inplace)
        raise Uncaptured(f"{path} is a {type(module).__name__}")

    def _function(self, node: fx.Node) -> int:
        target, args, kwargs = node.target, node.args, dict(node.kwargs)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if target in (operator.add, operator.iadd, torch.add) and len(args) == 2 and not kwargs:
            place = self._add(Add(), (self._value(args[0]), self._value(args[1])))
            return self._written(args[0], place) if target is operator.iadd else place
        if target is F.dropout:
            given = dict(zip(("input", "p", "training", "inplace"), args)) | kwargs
            active = given.get("training", True)
            return self._dropout(self._value(given["input"]), name, given.get("p", 0.5), active)
        if target in (F.relu, F.silu, F.elu) and len(args) == 1 and not {*kwargs} - {"inplace"}:
            rule = ReLU() if target is F.relu else Smooth(target)
            return self._elementwise(rule, node, kwargs.get("inplace", False))
        if target in (torch.relu, "relu", "relu_") and len(args) == 1 and not kwargs:
            return self._elementwise(ReLU(), node, target == "relu_")
        if target in (torch.flatten, "flatten") and args[1:] == (1,) and not kwargs:
            return self._add(SampleWise(nn.Flatten()), (self._value(args[0]),))
        if target in (torch.tanh, torch.sigmoid, F.gelu) and len(args) == 1 and not kwargs:
            return self._add(Smooth(target), (self._value(args[0]),))
        raise Uncaptured(f"the function {name} is not known")

    def _elementwise(self, rule: StepRule, node: fx.Node, inplace: Any) -> int:
        place = self._add(rule, (self._value(node.args[0]),))
        return self._written(node.args[0], place) if inplace else place

    def _written(self, argument: Any, place: int) -> int:
        """Let later readers of a value that was changed in place read the new value."""
        old = self._values[argument]
        for node, value in self._values.items():
            if value == old:
                self._values[node] = place
        return place

    def _dropout(self, x: int, name: str, p: Any, active: Any) -> int:
        if active is not False and p != 0:
            raise Uncaptured(f"{name} drops at random in evaluation mode too")
        return x

    def _parameter(self, path: str, module: nn.Module, kind: str) -> str | None:
        """The name of a module's weight or bias, None if it has none."""
        name = self._names.get(f"{path}.{kind}")
        if name is None and getattr(module, kind) is not None:
            raise Uncaptured(f"{path} computes its {kind}")  # a parametrization, or pruning
        return name

    def _affine(self, node: fx.Node, path: str, module: Any, rule: StepRule, x: int) -> int:
        """A convolution or linear layer, together with the BatchNorm that alone reads it."""
        users = list(node.users)
        after = users[0] if len(users) == 1 else None
        follower = self._modules.get(str(after.target)) if after is not None else None
        folded: dict[str, Any] = {}
        if after is not None and after.op == "call_module" and isinstance(follower, _BatchNorm):
            shape = getattr(node.meta.get("tensor_meta"), "shape", ())
            # BatchNorm's channels are dimension 1, a linear layer's are the last one.
            if not isinstance(rule, LinearLayer) or len(shape) == 2:
                folded = self._normalisation(str(after.target), follower)
        # By the call, not the layer: one that is called twice may be normalised in two ways.
        affine = Affine(
            name=node.name,
            weight=self._parameter(path, module, "weight"),
            bias=self._parameter(path, module, "bias"),
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
        if module.training or module._forward_hooks or module._forward_pre_hooks:
            raise Uncaptured(f"{path} is in training mode or has a forward hook")
        return {
            "mean": module.running_mean,
            "inverse": (module.running_var + module.eps).rsqrt(),
            "gamma": self._parameter(path, module, "weight"),
            "beta": self._parameter(path, module, "bias"),
        }

    def _add(self, rule: StepRule, inputs: tuple[int, ...], affine: Affine | None = None) -> int:
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
            raise Uncaptured(f"{argument} is not a value of the network")
        return self._values[argument]
