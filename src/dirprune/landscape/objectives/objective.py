"""The landscape itself: mean loss and error of a model over frozen data."""

import math
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dirprune.landscape.objectives.data import FrozenData
from dirprune.landscape.objectives.points import Layout, Point

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs and targets of a batch to their mean loss, such as ``F.cross_entropy``."""


class Measured(NamedTuple):
    """What a network does on some data.

    Attributes:
        loss: Mean over all samples.
        error: Share of samples, in [0, 1], whose largest output is not the target; None where
            targets are no classes.
    """

    loss: float
    error: float | None


class Objective:
    r"""Mean loss over frozen data as a function of all trainable weights.

    .. math:: L(w) = \frac1N \sum_{i=1}^N \ell(f_w(x_i), y_i)

    in evaluation mode, dropout off, exact for batches of unequal sizes, summed in float64. All
    work is done on a private copy: the model that is given is never written to, not even its mode.

    Args:
        model: Any module that maps a batch of inputs to outputs.
        loss: Mean loss of a batch.
        data: As :class:`FrozenData` takes it, or one that is made already.
        dtype: Of the arithmetic; by default the model's own, usually float32.

    Raises:
        TypeError: If data, loss or model are not of their kind.
        ValueError: If the data is empty or not the same twice, or the loss is a sum.

    Attributes:
        model: The private copy, in evaluation mode. Whoever changes its mode restores it.
        layout: Of its weights.
        data: What it is measured on.
        loss: As given.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> objective = Objective(model, nn.functional.mse_loss, (x, 2 * x))
        >>> objective(objective.layout.point({"weight": torch.tensor([[1.0]])}))
        Measured(loss=4.666..., error=None)
    """

    def __init__(
        self, model: nn.Module, loss: Loss, data: Any, *, dtype: torch.dtype | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be an nn.Module, got a {type(model).__name__}")
        if not callable(loss):
            raise TypeError(f"the loss must be callable, got a {type(loss).__name__}")
        self.data = data if isinstance(data, FrozenData) else FrozenData(data)
        self.loss = loss
        try:
            self.model = deepcopy(model).eval()
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"the model cannot be copied ({error}): give one that can") from error
        if dtype is not None:
            self.model.to(dtype)
        self.layout = Layout(self.model)
        self._check_mean()

    def over(self, data: Any) -> "Objective":
        """Return the objective over other data; both share one private copy."""
        other = copy(self)
        other.data = data if isinstance(data, FrozenData) else FrozenData(data)
        other._check_mean()
        return other

    def __call__(self, point: Point, origin: str = "this point") -> Measured:
        """Measure at a point, with its own buffers.

        Args:
            point: Of :attr:`layout`.
            origin: What it is, for the message.

        Raises:
            ValueError: If the loss is not finite there.
        """
        self.load(point)
        measured = self.measure()
        if not math.isfinite(measured.loss):
            raise ValueError(
                f"the loss at {origin} is {measured.loss}: check the data for NaN and the "
                "weights for a diverged run"
            )
        return measured

    @torch.no_grad()
    def load(self, point: Point) -> None:
        """Put a point's weights and buffers into the private copy."""
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, value in (self.layout.tensors(point.w) | point.rest).items():
            own[name].copy_(value)

    @torch.no_grad()
    def measure(self) -> Measured:
        """Measure what the private copy holds; the loss may be infinite or NaN."""
        total, wrong, answers = 0.0, 0, 0
        for inputs, targets in self.batches():
            outputs = self.model(inputs)
            total += float(self.loss(outputs, targets)) * len(targets)
            if _are_classes(outputs, targets):
                wrong += int((outputs.argmax(dim=1) != targets).sum())
                answers += targets.numel()
        return Measured(total / self.data.samples, wrong / answers if answers else None)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets on the model's device, floating-point ones in its dtype."""

        def placed(tensor: Tensor) -> Tensor:
            dtype = self.layout.dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(self.layout.device, dtype, non_blocking=True)

        for inputs, targets in self.data:
            if len(targets):
                yield placed(inputs), placed(targets)

    @torch.no_grad()
    def _check_mean(self) -> None:
        inputs, targets = next(self.batches())
        outputs = self.model(inputs)
        once = self.loss(outputs, targets)
        if not isinstance(once, Tensor) or once.numel() != 1:
            shape = tuple(once.shape) if isinstance(once, Tensor) else type(once).__name__
            raise TypeError(f"the loss must return one number, got {shape}: average over samples")
        twice = self.loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
        if bool(once.isfinite()) and not torch.isclose(once, twice, rtol=1e-2, atol=1e-6):
            raise ValueError(
                f"the loss of a batch changes from {float(once):.4g} to {float(twice):.4g} when "
                "every sample is there twice: give a mean (reduction='mean'), not a sum"
            )


def _are_classes(outputs: Tensor, targets: Tensor) -> bool:
    if outputs.dim() < 2 or outputs.shape[1] < 2 or targets.is_floating_point():
        return False
    return targets.shape == outputs.shape[:1] + outputs.shape[2:]
