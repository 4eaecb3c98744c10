"""The objective: mean loss and error of a model over frozen data."""

import logging
import math
from collections.abc import Iterator
from copy import copy, deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dirprune._support.precision import true_float32
from dirprune._support.wrappers import unwrap
from dirprune.landscape.objectives.data import FrozenData
from dirprune.landscape.objectives.loss_calls import LossCalls
from dirprune.landscape.objectives.outputs import join
from dirprune.landscape.objectives.points import ParameterLayout, Point
from dirprune.landscape.objectives.weights import Loss, LossInputs, batch_weights

_log = logging.getLogger(__name__)


class Measured(NamedTuple):
    """Loss and error of a network on a data set.

    Attributes:
        loss: Mean over all data.
        error: Share of targets, in [0, 1], that are not the class with the largest output, without
            ignored targets. None if the targets are not classes.
    """

    loss: float
    error: float | None


class Objective:
    r"""Mean loss over frozen data as a function of all trainable weights.

    .. math:: L(w) = \frac{\sum_b W_b L_b(w)}{\sum_b W_b}

    over batches b, where :math:`W_b` is the divisor of the loss: the number of samples, of tokens
    that are not ignored, or the sum of class weights (see :mod:`.weights`). So the mean does not
    depend on the split into batches. It is summed in float64, in evaluation mode, without dropout
    and TF32. The given model is copied and not changed; wrappers (DataParallel, DDP,
    AveragedModel, ``torch.compile``) are removed.

    Args:
        model: Any module that maps a batch of inputs to outputs: a tensor, or a dict, tuple or
            dataclass that the loss accepts.
        loss: Mean loss of a batch: a function or module of outputs and targets.
        data: A :class:`FrozenData`, or data for one.
        dtype: Dtype of the arithmetic; by default the model's own, but at least float32.

    Raises:
        TypeError: If data, loss or model have the wrong type.
        ValueError: If the data is empty or differs between two passes, or the loss is not a mean.

    Attributes:
        model: The private copy, in evaluation mode. Code that changes its mode must restore it.
        layout: Layout of its weights.
        data: The frozen data.
        loss: The given loss.

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
        self.model = _copy(unwrap(model)).eval()
        half = [p.dtype for p in self.model.parameters() if p.is_floating_point()]
        if dtype is None and any(t.itemsize < torch.float32.itemsize for t in half):
            _log.info("the weights are converted to float32, in which the loss is computed")
            dtype = torch.float32
        if dtype is not None:
            self.model.to(dtype)
        self.layout = ParameterLayout(self.model)
        self._weights: list[float] | None = None
        self._check_mean()

    def over(self, data: Any) -> "Objective":
        """Return the objective over other data; both share one private copy."""
        other = copy(self)
        other.data = data if isinstance(data, FrozenData) else FrozenData(data)
        other._weights = None
        other._check_mean()
        return other

    def __call__(self, point: Point, origin: str = "this point") -> Measured:
        """Measure at a point, with its own buffers.

        Args:
            point: A point of :attr:`layout`.
            origin: Its name in messages.

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
        """Load a point's weights and buffers into the private copy."""
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, value in (self.layout.tensors(point.w) | point.rest).items():
            own[name].copy_(value)

    @torch.no_grad()
    @true_float32()
    def measure(self) -> Measured:
        """Measure the private copy; the loss may be infinite or NaN."""
        total, wrong, answers = 0.0, 0, 0
        for (inputs, targets), weight in zip(self.batches(), self.weights()):
            if weight == 0:
                continue  # all of its targets are ignored
            outputs = self.model(inputs)
            with LossCalls() as calls:
                total += float(self.loss(outputs, targets)) * weight
            counted = calls.wrong(outputs, targets)
            wrong, answers = wrong + counted[0], answers + counted[1]
        return Measured(total / math.fsum(self.weights()), wrong / answers if answers else None)

    @torch.no_grad()
    @true_float32()
    def weights(self) -> list[float]:
        """Return the weight of every batch in the mean, found in one pass when first needed.

        Raises:
            ValueError: If the loss is not a weighted mean, or all weights are zero.
        """
        if self._weights is None:
            if self.data.batches == 1:
                self._weights = [float(self.data.samples)]
            else:
                passes = (LossInputs(self.model(x), y) for x, y in self.batches())
                self._weights = batch_weights(self.loss, passes)
            if not sum(self._weights) > 0:
                raise ValueError(
                    "the loss gives no target a weight: are all of them ignored, or all class "
                    "weights 0?"
                )
        return self._weights

    @property
    def weighs_samples(self) -> bool:
        """Whether the weight of every batch is its number of samples."""
        return math.fsum(self.weights()) == self.data.samples

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets on the model's device, floating-point ones in its dtype."""

        def placed(tensor: Tensor) -> Tensor:
            dtype = self.layout.dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(self.layout.device, dtype, non_blocking=True)

        for inputs, targets in self.data:
            if len(targets):
                yield placed(inputs), placed(targets)

    @torch.no_grad()
    @true_float32()
    def _check_mean(self) -> None:
        for inputs, targets in self.batches():
            outputs = self.model(inputs)
            once = self.loss(outputs, targets)
            if not isinstance(once, Tensor) or once.numel() != 1:
                shape = tuple(once.shape) if isinstance(once, Tensor) else type(once).__name__
                raise TypeError(
                    f"the loss must return one number, got {shape}: average over samples"
                )
            if bool(once.isfinite()):
                break
        else:
            return  # measure() reports it
        samples = (len(targets), len(targets))
        twice = self.loss(join(outputs, outputs, samples), torch.cat([targets, targets]))
        if not torch.isclose(once, twice, rtol=1e-2, atol=1e-6):
            raise ValueError(
                f"the loss of a batch changes from {float(once):.4g} to {float(twice):.4g} when "
                "every sample is there twice: give a mean (reduction='mean'), not a sum"
            )


def _copy(model: nn.Module) -> nn.Module:
    """Copy a module, also one that keeps a computed tensor, as ``torch.nn.utils.prune`` does."""
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        return deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"the model cannot be copied ({error}): give one that can") from error
