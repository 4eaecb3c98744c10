"""Curvature products by automatic differentiation, for any module."""

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dirprune.landscape.objectives.inputs import Inputs, apply, arguments
from dirprune.landscape.objectives.outputs import Rebuild, flatten
from dirprune.landscape.objectives.points import NamedTensors
from dirprune.landscape.objectives.weights import Loss

WeightedBatches = Iterable[tuple[Inputs, Tensor, float]]
"""Inputs, targets and the batch's share of all samples."""


class ProductEngine(Protocol):
    """A method that computes curvature products."""

    def prepare(self, batches: WeightedBatches) -> float:
        """Compute once what does not depend on the vector, and return the mean loss."""

    def product(self, tangent: NamedTensors, batches: WeightedBatches) -> NamedTensors:
        """Multiply: the vector and the result by names of parameters, the latter in float64."""


class NotTwiceDifferentiable(Exception):
    """An operation of the model has no second derivative."""


class AutogradEngine:
    """Torch's own derivatives, of any module.

    Args:
        model: The module; it is called with other parameters.
        own: Its parameters by name.
        wanted: Names of the parameters to differentiate by; all others are constant.
        loss: Mean loss of a batch.
    """

    def __init__(
        self, model: nn.Module, own: NamedTensors, wanted: Iterable[str], loss: Loss
    ) -> None:
        self._model, self._loss = model, loss
        self._wanted = {name: own[name] for name in wanted}
        self._fixed = {name: p for name, p in own.items() if name not in self._wanted}

    def prepare(self, batches: WeightedBatches) -> float:
        """Measure the loss."""
        with torch.no_grad():
            return sum(
                share * float(self._loss(apply(self._model, x), y)) for x, y, share in batches
            )

    def product(self, tangent: NamedTensors, batches: WeightedBatches) -> NamedTensors:
        """Multiply."""
        along = {name: tangent[name] for name in self._wanted}
        total = WeightedSum()
        for x, y, share in batches:
            total.add(self._attempted(along, x, y), share)
        return total.tensors

    def _attempted(self, along: NamedTensors, x: Inputs, y: Tensor) -> NamedTensors:
        try:
            return self._one_batch(along, x, y)
        except (RuntimeError, NotImplementedError) as error:
            raise self._explained(error, x, y) from error

    def _one_batch(self, along: NamedTensors, x: Inputs, y: Tensor) -> NamedTensors:
        raise NotImplementedError

    def _outputs(self, wanted: NamedTensors, x: Inputs) -> Any:
        with _CompositeWeightNorm():
            return functional_call(self._model, wanted | self._fixed, *arguments(x))

    def _mean_loss(self, wanted: NamedTensors, x: Inputs, y: Tensor) -> Tensor:
        return self._loss(self._outputs(wanted, x), y)

    def _explained(self, error: Exception, x: Inputs, y: Tensor) -> Exception:
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
    """The gradient of v'g, keeping the graph of g."""

    def _one_batch(self, along: NamedTensors, x: Inputs, y: Tensor) -> NamedTensors:
        weights = {name: p.detach().requires_grad_() for name, p in self._wanted.items()}
        leaves = list(weights.values())
        with torch.enable_grad():
            loss = self._mean_loss(weights, x, y)
            slope = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            pairs = [(g, along[name]) for name, g in zip(weights, slope) if g.requires_grad]
            if not pairs:
                return {name: torch.zeros_like(p) for name, p in weights.items()}
            tangents = torch.autograd.grad(
                *([g for g, _ in pairs], leaves, [v for _, v in pairs]), materialize_grads=True
            )
        return dict(zip(weights, tangents))


class ForwardOverReverse(AutogradEngine):
    """The derivative of the gradient along v."""

    def _one_batch(self, along: NamedTensors, x: Inputs, y: Tensor) -> NamedTensors:
        slope = grad(self._mean_loss)
        with _without_deprecations():
            tangents: NamedTensors = jvp(lambda w: slope(w, x, y), (self._wanted,), (along,))[1]
        return tangents


class GaussNewtonByAutograd(AutogradEngine):
    """The derivative of the outputs along v, times the loss's curvature, backpropagated."""

    def _one_batch(self, along: NamedTensors, x: Inputs, y: Tensor) -> NamedTensors:
        structure: list[Rebuild] = []

        def outputs(w: NamedTensors) -> tuple[Tensor, ...]:
            """The tensors of the outputs that have derivatives."""
            tensors, rebuild = flatten(self._outputs(w, x))
            smooth = [t.is_floating_point() for t in tensors]

            def rebuild_smooth(some: list[Tensor]) -> Any:
                given = iter(some)
                return rebuild([next(given) if s else t for s, t in zip(smooth, tensors)])

            structure[:] = [rebuild_smooth]
            return tuple(t for t in tensors if t.is_floating_point())

        with _without_deprecations():
            z, tangents = jvp(outputs, (self._wanted,), (along,))[:2]
            tangents = [t.detach() for t in tangents]
            products = loss_hessian_product(self._loss, list(z), structure[0], y, tangents)
        back: NamedTensors = vjp(outputs, self._wanted)[1](tuple(products))[0]
        return back


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use kernels with second derivatives: plain attention, and compiled modules in eager mode."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if "torch._dynamo" in sys.modules:  # importing it takes seconds
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


class _CompositeWeightNorm(TorchFunctionMode):
    """Computes weight_norm from plain operations.

    The second derivative of torch's operation ignores that of the norm (torch 2.14).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            v, g, *dim = args
            return v * (g / torch.norm_except_dim(v, 2, *(dim or [0])))
        return func(*args, **(kwargs or {}))


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide warnings of torch's forward mode about torch itself."""
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


class WeightedSum:
    """A weighted sum over batches, in float64."""

    def __init__(self) -> None:
        self.tensors: NamedTensors = {}

    def add(self, tensors: NamedTensors, share: float) -> None:
        """Add the tensors of one batch."""
        for name, tensor in tensors.items():
            part = tensor.detach().double() * share
            self.tensors[name] = self.tensors[name] + part if name in self.tensors else part


def loss_gradient(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Return the loss and its gradient by the outputs."""
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        value = loss(z, targets)
        return float(value.detach()), torch.autograd.grad(value, z)[0]


def loss_hessian_product(
    loss: Loss, outputs: Sequence[Tensor], rebuild: Rebuild, targets: Tensor, v: Sequence[Tensor]
) -> list[Tensor]:
    """Multiply the Hessian of the loss by the outputs.

    Args:
        loss: Mean loss of a batch.
        outputs: The tensors by which the loss is differentiated.
        rebuild: Makes the loss's first argument of them.
        targets: Of the batch.
        v: One tensor for each output.
    """
    with torch.enable_grad():
        z = [t.detach().requires_grad_() for t in outputs]
        value = loss(rebuild(z), targets)
        slopes = torch.autograd.grad(value, z, create_graph=True, materialize_grads=True)
        pairs = [(g, t) for g, t in zip(slopes, v) if g.requires_grad]
        if not pairs:  # the loss is linear in them
            return [torch.zeros_like(t) for t in z]
        heads, tangents = zip(*pairs)
        return list(torch.autograd.grad(heads, z, tangents, materialize_grads=True))
