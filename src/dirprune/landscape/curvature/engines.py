"""Ways to multiply by a Hessian or Gauss-Newton matrix, batch by batch."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp

from dirprune.landscape.curvature.graph import Graph
from dirprune.landscape.curvature.pearlmutter import (
    Back,
    Bilinear,
    Inputs,
    Smooth,
    Tensors,
    Weight,
)
from dirprune.landscape.objectives.objective import Loss

Batches = Iterable[tuple[Tensor, Tensor, float]]
"""Inputs, targets and the batch's share of all samples."""


class Engine(Protocol):
    """A way to multiply."""

    def prepare(self, batches: Batches) -> float:
        """Compute once what does not depend on the vector, and return the mean loss."""

    def product(self, tangent: Tensors, batches: Batches) -> Tensors:
        """Multiply: the vector and the result by names of parameters, the latter in float64."""


class GraphEngine:
    """Pearlmutter's R-operator over captured steps.

    Args:
        graph: Of the network.
        own: The network's parameters by name.
        loss: Mean loss of a batch.
        gauss_newton: Whether to leave out the network's own curvature.
        layout: Memory format of weights and images with four dimensions.
        keep: Bytes of memory for what does not depend on the vector; batches beyond it compute it
            anew every time.
    """

    def __init__(
        self,
        graph: Graph,
        own: Tensors,
        loss: Loss,
        *,
        gauss_newton: bool,
        layout: torch.memory_format,
        keep: float = 0.0,
    ) -> None:
        self._graph, self._own, self._loss = graph, own, loss
        self._gauss_newton, self._layout = gauss_newton, layout
        self._keep, self._passed = keep, dict[int, _Passed]()
        self._gradient: Tensors = {}

    @torch.no_grad()
    def prepare(self, batches: Batches) -> float:
        """Compute the gradient by the effective weights, and keep what there is room for."""
        weights = self._placed(self._graph.effective(self._own), None)
        total, mean = _Total(), 0.0
        self._passed.clear()
        left = self._keep
        for number, (x, y, share) in enumerate(batches):
            passed = self._pass(x, y, weights)
            mean += share * passed.loss
            gradient = self._back(passed, weights, by_weights=True)
            total.add(gradient, share)
            left -= passed.bytes()
            if left > 0:
                self._passed[number] = passed
        self._gradient = total.tensors
        return mean

    @torch.no_grad()
    def product(self, tangent: Tensors, batches: Batches) -> Tensors:
        """Multiply."""
        moved = self._graph.push(self._own, tangent)
        weights = self._placed(self._graph.effective(self._own), moved)
        total = _Total()
        for number, (x, y, share) in enumerate(batches):
            passed = self._passed.get(number)
            if passed is None:
                passed = self._pass(x, y, weights)
                if not self._gauss_newton:
                    self._back(passed, weights, by_weights=False)
            total.add(self._curve(passed, y, weights), share)
        gradient = None if self._gauss_newton else self._gradient
        return self._graph.pull(self._own, tangent, total.tensors, gradient)

    def _pass(self, x: Tensor, y: Tensor, weights: dict[str, Weight]) -> "_Passed":
        """Forward, and the loss."""
        values: list[Tensor] = [self._image(x)]
        kept = []
        for step in self._graph.steps:
            value, saved = step.rule.forward(
                [values[i] for i in step.inputs], [weights[name] for name in step.weights]
            )
            values.append(value)
            kept.append(saved)
        output = values[self._graph.output]
        loss, slope = _slope(self._loss, output, y)
        # Only what a step reads is worth its room.
        for i in range(1, len(values)):
            if i not in self._graph.read:
                values[i] = torch.empty(0)
        return _Passed(values, kept, output, loss, slope, {})

    def _at(self, number: int, passed: "_Passed", weights: dict[str, Weight]) -> Inputs:
        step = self._graph.steps[number]
        return Inputs(
            [passed.values[i] for i in step.inputs],
            [weights[name] for name in step.weights],
            passed.kept[number],
            [self._graph.depends[i] for i in step.inputs],
        )

    def _back(self, passed: "_Passed", weights: dict[str, Weight], *, by_weights: bool) -> Tensors:
        """Backward; what arrives at every step is noted for later."""

        def back(number: int, g: Tensor) -> Back:
            rule = self._graph.steps[number].rule
            if isinstance(rule, (Bilinear, Smooth)):
                passed.slopes[number] = g
            return rule.backward(self._at(number, passed, weights), g, by_weights)

        return self._backward(passed.slope, back)

    def _curve(self, passed: "_Passed", y: Tensor, weights: dict[str, Weight]) -> Tensors:
        """The R-operator of both passes."""
        graph = self._graph
        moved: list[Tensor | None] = [None]
        for number, step in enumerate(graph.steps):
            at = self._at(number, passed, weights)
            depends = graph.depends[number + 1]
            inputs = [moved[i] for i in step.inputs]
            moved.append(step.rule.push(at, inputs) if depends else None)
        last = moved[graph.output]
        seed = _bent(self._loss, passed.output, y, last)

        def back(number: int, g: Tensor) -> Back:
            step, at = graph.steps[number], self._at(number, passed, weights)
            if self._gauss_newton:
                return step.rule.backward(at, g, True)
            inputs = [moved[i] for i in step.inputs]
            moved[number + 1] = None  # nothing before this step reads it
            slope = passed.slopes.get(number, g)
            return step.rule.pull(at, inputs, slope, g)

        return self._backward(seed, back)

    def _backward(self, seed: Tensor, back: Callable[[int, Tensor], Back]) -> Tensors:
        """Walk the steps back, adding up what comes from several."""
        graph = self._graph
        waiting: list[Tensor | None] = [None] * len(graph.depends)
        waiting[graph.output] = seed
        result: Tensors = {}
        for number in reversed(range(len(graph.steps))):
            g, waiting[number + 1] = waiting[number + 1], None
            if g is None or not graph.depends[number + 1]:
                continue
            step = graph.steps[number]
            inputs, of_weights = back(number, g)
            for i, part in zip(step.inputs, inputs):
                if part is not None and graph.depends[i]:
                    before = waiting[i]
                    waiting[i] = part if before is None else before + part
            for name, part in zip(step.weights, of_weights):
                result[name] = result[name] + part if name in result else part
        return result

    def _placed(self, values: Tensors, tangents: Tensors | None) -> dict[str, Weight]:
        if tangents is None:
            return {name: Weight(self._image(w)) for name, w in values.items()}
        return {
            name: Weight(self._image(w), self._image(tangents[name])) for name, w in values.items()
        }

    def _image(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._layout) if x.dim() == 4 else x


@dataclass
class _Passed:
    """What a batch's passes leave that does not depend on the vector.

    Attributes:
        values: What the steps read, the first is the input.
        kept: By the steps themselves.
        output: Of the network.
        loss: Its mean.
        slope: Of the loss by the output.
        slopes: Of the loss by the output of those steps that read it again.
    """

    values: list[Tensor]
    kept: list[Any]
    output: Tensor
    loss: float
    slope: Tensor
    slopes: dict[int, Tensor]

    def bytes(self) -> int:
        """Return how much memory it holds."""
        held = [*self.values, *self.kept, self.output, self.slope, *self.slopes.values()]
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in held
            if isinstance(t, Tensor)
        }
        return sum(storages.values())


class NotTwiceDifferentiable(Exception):
    """An operation of the model has no second derivative."""


class AutogradEngine:
    """Torch's own derivatives, of any module.

    Args:
        model: Called with other parameters in place of its own.
        own: Its parameters by name.
        wanted: Names of those that the product is by; all others stay fixed.
        loss: Mean loss of a batch.
    """

    def __init__(self, model: nn.Module, own: Tensors, wanted: Iterable[str], loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._wanted = {name: own[name] for name in wanted}
        self._fixed = {name: p for name, p in own.items() if name not in self._wanted}

    def prepare(self, batches: Batches) -> float:
        """Measure the loss."""
        with torch.no_grad():
            return sum(share * float(self._loss(self._model(x), y)) for x, y, share in batches)

    def product(self, tangent: Tensors, batches: Batches) -> Tensors:
        """Multiply."""
        along = {name: tangent[name] for name in self._wanted}
        total = _Total()
        for x, y, share in batches:
            total.add(self._attempted(along, x, y), share)
        return total.tensors

    def _attempted(self, along: Tensors, x: Tensor, y: Tensor) -> Tensors:
        try:
            return self._one_batch(along, x, y)
        except (RuntimeError, NotImplementedError) as error:
            raise self._explained(error, x, y) from error

    def _one_batch(self, along: Tensors, x: Tensor, y: Tensor) -> Tensors:
        raise NotImplementedError

    def _outputs(self, wanted: Tensors, x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self._model, wanted | self._fixed, (x,))
        return outputs

    def _mean_loss(self, wanted: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return self._loss(self._outputs(wanted, x), y)

    def _explained(self, error: Exception, x: Tensor, y: Tensor) -> Exception:
        """Name the operation, if the error is that there is no second derivative."""
        text = str(error)
        named = re.search(r"(\S+) is not implemented|Could not run '(\S+)'", text)
        custom = "once_differentiable" in text or "setup_context" in text or "jvp" in text
        if not named and not custom:
            return error
        operation = next((n for n in named.groups() if n), "") if named else ""
        if custom:
            weights = {name: p.detach().requires_grad_() for name, p in self._wanted.items()}
            with torch.enable_grad():
                own = _custom_functions(self._mean_loss(weights, x, y))
            operation = ", ".join(own) or operation
        return NotTwiceDifferentiable(
            f"{operation or 'an operation'} cannot be differentiated twice, which a product "
            "needs: replace it by one that can"
        )


class ReverseOverReverse(AutogradEngine):
    """The gradient of v'g, with g's own graph kept."""

    def _one_batch(self, along: Tensors, x: Tensor, y: Tensor) -> Tensors:
        weights = {name: p.detach().requires_grad_() for name, p in self._wanted.items()}
        leaves = list(weights.values())
        with torch.enable_grad():
            loss = self._mean_loss(weights, x, y)
            slope = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            pairs = [(g, along[name]) for name, g in zip(weights, slope) if g.requires_grad]
            if not pairs:
                return {name: torch.zeros_like(p) for name, p in weights.items()}
            moved = torch.autograd.grad(
                *([g for g, _ in pairs], leaves, [v for _, v in pairs]), materialize_grads=True
            )
        return dict(zip(weights, moved))


class ForwardOverReverse(AutogradEngine):
    """The derivative of the gradient along v."""

    def _one_batch(self, along: Tensors, x: Tensor, y: Tensor) -> Tensors:
        with _quiet():
            return self._derivative(along, x, y)

    def _derivative(self, along: Tensors, x: Tensor, y: Tensor) -> Tensors:
        slope = grad(self._mean_loss)
        moved: Tensors = jvp(lambda w: slope(w, x, y), (self._wanted,), (along,))[1]
        return moved


class GaussNewtonByAutograd(AutogradEngine):
    """The outputs' derivative along v, through the loss's curvature, and back."""

    def _one_batch(self, along: Tensors, x: Tensor, y: Tensor) -> Tensors:
        def outputs(w: Tensors) -> Tensor:
            return self._outputs(w, x)

        with _quiet():
            z, moved, *_ = jvp(outputs, (self._wanted,), (along,))
        bent = _bent(self._loss, z, y, moved.detach())
        back: Tensors = vjp(outputs, self._wanted)[1](bent)[0]
        return back


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's forward mode warns of what is deprecated inside of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        yield


def _custom_functions(loss: Tensor) -> list[str]:
    """Names of the operations in a graph that are written in Python."""
    seen, names, todo = set[Any](), set[str](), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            names.add(type(node).__name__.removesuffix("Backward"))
        todo += [parent for parent, _ in node.next_functions]
    return sorted(names)


class _Total:
    """A weighted sum over batches, in float64."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}

    def add(self, tensors: Tensors, share: float) -> None:
        for name, tensor in tensors.items():
            part = tensor.detach().double() * share
            self.tensors[name] = self.tensors[name] + part if name in self.tensors else part


def _slope(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """The loss and its derivative by the outputs."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        value = loss(z, targets)
        return float(value.detach()), torch.autograd.grad(value, z)[0]


def _bent(loss: Loss, outputs: Tensor, targets: Tensor, moved: Tensor | None) -> Tensor:
    """What the loss's curvature makes of a motion of the outputs."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(z, targets), z, create_graph=True)
        if not slope.requires_grad:  # the loss is linear in them
            return torch.zeros_like(slope)
        return torch.autograd.grad(slope, z, moved, materialize_grads=True)[0]
