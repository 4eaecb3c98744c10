"""The objective: mean loss and error of a model over frozen data."""

import math
from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dirprune._support.precision import true_float32
from dirprune.landscape.objectives.data import FrozenData
from dirprune.landscape.objectives.inputs import Inputs, apply, map_tensors
from dirprune.landscape.objectives.loss_calls import LossCalls
from dirprune.landscape.objectives.model_copy import copy_model, loss_in_dtype
from dirprune.landscape.objectives.outputs import join
from dirprune.landscape.objectives.points import ParameterLayout, Point
from dirprune.landscape.objectives.weights import Loss, LossInputs, batch_weights, check_scalar


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
            dataclass that the loss accepts. It is called with inputs as arguments if they are a
            tuple or list, as keyword arguments if they are a dict, otherwise as one argument.
        loss: Mean loss of a batch: a function or module of outputs and targets.
        data: A :class:`FrozenData`, or data for one.
        dtype: Dtype of the arithmetic, also of the tensors of a loss that is a module or a
            ``functools.partial``; by default the model's widest, but at least float32.

    Raises:
        TypeError: If data, loss or model have the wrong type.
        ValueError: If the data is empty or differs between two passes, or the loss is not a mean.

    Attributes:
        model: The private copy, in evaluation mode. Code that changes its mode must restore it.
        layout: Layout of its weights.
        data: The frozen data.
        loss: The given loss, in the dtype of the arithmetic.

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
        if not callable(loss):
            raise TypeError(f"the loss must be callable, got a {type(loss).__name__}")
        self.model = copy_model(model, dtype).eval()
        self.data = data if isinstance(data, FrozenData) else FrozenData(data)
        self.layout = ParameterLayout(self.model)
        self.loss = loss_in_dtype(loss, self.layout.dtype)
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

    def load(self, point: Point) -> None:
        """Load a point's weights and buffers into the private copy."""
        self.layout.load(point, self.model)

    @torch.no_grad()
    @true_float32()
    def measure(self) -> Measured:
        """Measure the private copy; the loss may be infinite or NaN."""
        total, wrong, answers = 0.0, 0, 0
        for (inputs, targets), weight in zip(self.batches(), self.weights()):
            if weight == 0:
                continue  # all of its targets are ignored
            outputs = apply(self.model, inputs)
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
                passes = (LossInputs(apply(self.model, x), y) for x, y in self.batches())
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

    def batches(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield inputs and targets on the model's device, floating-point ones in its dtype."""
        for inputs, targets in self.data:
            if len(targets):
                yield map_tensors(self.layout.place, inputs), self.layout.place(targets)

    @torch.no_grad()
    @true_float32()
    def _check_mean(self) -> None:
        for inputs, targets in self.batches():
            outputs = apply(self.model, inputs)
            once = self.loss(outputs, targets)
            check_scalar(once)
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
