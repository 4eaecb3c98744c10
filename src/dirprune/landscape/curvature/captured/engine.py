"""Curvature products by Pearlmutter's R-operator over a captured network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dirprune.landscape.curvature.autograd import (
    WeightedBatches,
    WeightedSum,
    loss_gradient,
    loss_hessian_product,
)
from dirprune.landscape.curvature.captured.graph import StepGraph
from dirprune.landscape.curvature.captured.layers import Bilinear
from dirprune.landscape.curvature.captured.rules import Back, Inputs, Smooth, Weight
from dirprune.landscape.objectives.points import NamedTensors
from dirprune.landscape.objectives.weights import Loss


class GraphEngine:
    """Pearlmutter's R-operator over captured steps.

    Args:
        graph: Graph of the network.
        own: The network's parameters by name.
        loss: Mean loss of a batch.
        gauss_newton: Whether the network's own curvature is ignored.
        memory_format: Memory format of weights and images with four dimensions.
        keep: Bytes of memory for results that do not depend on the vector; batches beyond it are
            computed again in every product.
    """

    def __init__(
        self,
        graph: StepGraph,
        own: NamedTensors,
        loss: Loss,
        *,
        gauss_newton: bool,
        memory_format: torch.memory_format,
        keep: float = 0.0,
    ) -> None:
        self._graph, self._own, self._loss = graph, own, loss
        self._gauss_newton, self._memory_format = gauss_newton, memory_format
        self._keep, self._passed = keep, dict[int, CachedForward]()
        self._gradient: NamedTensors = {}

    @torch.no_grad()
    def prepare(self, batches: WeightedBatches) -> float:
        """Compute the gradient by the effective weights, and cache results within the limit."""
        weights = self._placed(self._graph.effective(self._own), None)
        total, mean = WeightedSum(), 0.0
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
    def product(self, tangent: NamedTensors, batches: WeightedBatches) -> NamedTensors:
        """Multiply."""
        tangents = self._graph.push(self._own, tangent)
        weights = self._placed(self._graph.effective(self._own), tangents)
        total = WeightedSum()
        for number, (x, y, share) in enumerate(batches):
            passed = self._passed.get(number)
            if passed is None:
                passed = self._pass(x, y, weights)
                if not self._gauss_newton:
                    self._back(passed, weights, by_weights=False)
            total.add(self._curve(passed, y, weights), share)
        gradient = None if self._gauss_newton else self._gradient
        return self._graph.pull(self._own, tangent, total.tensors, gradient)

    def _pass(self, x: Tensor, y: Tensor, weights: dict[str, Weight]) -> "CachedForward":
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
        loss, gradient = loss_gradient(self._loss, output, y)
        # Only values that a step reads are cached.
        for i in range(1, len(values)):
            if i not in self._graph.read:
                values[i] = torch.empty(0)
        return CachedForward(values, kept, output, loss, gradient, {})

    def _at(self, number: int, passed: "CachedForward", weights: dict[str, Weight]) -> Inputs:
        step = self._graph.steps[number]
        return Inputs(
            [passed.values[i] for i in step.inputs],
            [weights[name] for name in step.weights],
            passed.kept[number],
            [self._graph.depends[i] for i in step.inputs],
        )

    def _back(
        self, passed: "CachedForward", weights: dict[str, Weight], *, by_weights: bool
    ) -> NamedTensors:
        """Backward pass; the gradient of every step's output is recorded."""

        def back(number: int, g: Tensor) -> Back:
            rule = self._graph.steps[number].rule
            if isinstance(rule, (Bilinear, Smooth)):
                passed.output_gradients[number] = g
            return rule.backward(self._at(number, passed, weights), g, by_weights)

        return self._backward(passed.gradient, back)

    def _curve(
        self, passed: "CachedForward", y: Tensor, weights: dict[str, Weight]
    ) -> NamedTensors:
        """The R-operator of both passes."""
        graph = self._graph
        tangents: list[Tensor | None] = [None]
        for number, step in enumerate(graph.steps):
            at = self._at(number, passed, weights)
            depends = graph.depends[number + 1]
            inputs = [tangents[i] for i in step.inputs]
            tangents.append(step.rule.push(at, inputs) if depends else None)
        last = tangents[graph.output]
        if last is None:
            raise RuntimeError("the output depends on no weight")
        (seed,) = loss_hessian_product(self._loss, [passed.output], lambda z: z[0], y, [last])

        def back(number: int, g: Tensor) -> Back:
            step, at = graph.steps[number], self._at(number, passed, weights)
            if self._gauss_newton:
                return step.rule.backward(at, g, True)
            inputs = [tangents[i] for i in step.inputs]
            tangents[number + 1] = None  # nothing before this step reads it
            gradient = passed.output_gradients.get(number, g)
            return step.rule.pull(at, inputs, gradient, g)

        return self._backward(seed, back)

    def _backward(self, seed: Tensor, back: Callable[[int, Tensor], Back]) -> NamedTensors:
        """Go through the steps in reverse, summing the gradients of each value."""
        graph = self._graph
        waiting: list[Tensor | None] = [None] * len(graph.depends)
        waiting[graph.output] = seed
        result: NamedTensors = {}
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

    def _placed(self, values: NamedTensors, tangents: NamedTensors | None) -> dict[str, Weight]:
        if tangents is None:
            return {name: Weight(self._image(w)) for name, w in values.items()}
        return {
            name: Weight(self._image(w), self._image(tangents[name])) for name, w in values.items()
        }

    def _image(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._memory_format) if x.dim() == 4 else x


@dataclass
class CachedForward:
    """Results of a batch's forward and backward pass, which do not depend on the vector.

    Attributes:
        values: Values that the steps read; the first is the input.
        kept: Results that the steps keep.
        output: Output of the network.
        loss: Mean loss.
        gradient: Gradient of the loss by the output.
        output_gradients: Gradients of the loss by the outputs of the steps that need them again.
    """

    values: list[Tensor]
    kept: list[Any]
    output: Tensor
    loss: float
    gradient: Tensor
    output_gradients: dict[int, Tensor]

    def bytes(self) -> int:
        """Return the memory that it uses."""
        held = [
            *self.values,
            *self.kept,
            self.output,
            self.gradient,
            *self.output_gradients.values(),
        ]
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in held
            if isinstance(t, Tensor)
        }
        return sum(storages.values())
