"""Recording the loss functions of torch that a loss calls, and their divisors."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CLASSIFICATION = (F.cross_entropy, F.nll_loss)
_MEANS = (torch.mean, Tensor.mean)
_QUOTIENTS = (torch.div, Tensor.div, torch.true_divide, Tensor.true_divide, Tensor.__truediv__)


class LossCalls(TorchFunctionMode):
    """Records which loss functions of torch are called inside of the context.

    Example:
        >>> targets = torch.tensor([0, 1, -100])
        >>> with LossCalls() as calls:
        ...     loss = torch.nn.CrossEntropyLoss()(torch.zeros(3, 2), targets)
        >>> calls.weight(loss), calls.wrong(torch.zeros(3, 2), targets)
        (2.0, (1, 2))
    """

    def __init__(self) -> None:
        super().__init__()
        self._means: list[tuple[Tensor, float]] = []
        self._quotients: list[tuple[Tensor, float]] = []
        self._classifications: list[tuple[Tensor, dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and record the divisor of a mean."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.numel() != 1:
            return result
        if func in _MEANS and len(args) == 1 and not {*kwargs} - {"dtype"}:
            self._means.append((result, float(args[0].numel())))
        elif func in _QUOTIENTS and len(args) == 2 and not kwargs:
            if not isinstance(args[1], Tensor) or args[1].numel() == 1:
                self._quotients.append((result, float(args[1])))
        elif getattr(func, "__module__", "") == F.__name__ and _is_loss(func):
            call = _arguments(func, args, kwargs)
            if call is not None and call["reduction"] in ("mean", "batchmean"):
                self._means.append((result, _divisor(func, call)))
            if call is not None and func in _CLASSIFICATION:
                self._classifications.append((result, call))
        return result

    def weight(self, value: Tensor) -> float | None:
        """Return the divisor of the loss, or None if it is not the result of a mean."""
        return next((weight for result, weight in self._means if result is value), None)

    def denominator(self, value: Tensor) -> float | None:
        """Return the divisor of the loss, if its last operation is a division by a number."""
        return next((number for result, number in self._quotients if result is value), None)

    def classification(self) -> dict[str, Any] | None:
        """Return the arguments of the classification loss; None if there is not exactly one."""
        return self._classifications[0][1] if len(self._classifications) == 1 else None

    def classification_divisor(self, value: Tensor) -> float | None:
        """Return the number by which the loss divides the weighted sum of its cross-entropies.

        None if the loss is not a multiple of the result of exactly one classification loss.
        """
        if len(self._classifications) != 1:
            return None
        ((result, call),) = self._classifications
        if call["reduction"] not in ("mean", "sum"):
            return None
        divisor = _divisor(F.cross_entropy, call) if call["reduction"] == "mean" else 1.0
        if value is result:
            return divisor
        slope = torch.autograd.grad(
            value, result, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]
        is_multiple = torch.isclose(value, slope * result, rtol=1e-5, atol=0.0)
        return divisor / float(slope) if is_multiple and slope > 0 else None

    def wrong(self, outputs: Any, targets: Tensor) -> tuple[int, int]:
        """Count wrong answers and all answers, without ignored targets; (0, 0) if none is a class.

        Args:
            outputs: Outputs of the model, with shape (N, C, ...).
            targets: Targets, with shape (N, ...).
        """
        ignored = None
        call = self.classification()
        if call is not None:
            outputs, targets, ignored = call["input"], call["target"], call["ignore_index"]
        if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2:
            return 0, 0
        if targets.is_floating_point() or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
            return 0, 0
        answered = (targets >= 0) & (targets < outputs.shape[1])
        if ignored is not None:
            answered &= targets != ignored
        return int((outputs.argmax(dim=1) != targets)[answered].sum()), int(answered.sum())


def position_masses(call: dict[str, Any]) -> Tensor:
    r"""Return the factor of every position in the sum that a cross-entropy averages.

    For class weights w and target distribution q it is :math:`\sum_c w_c q_c`, and 0 where the
    target is ignored. The Hessian by the logits is this factor times
    :math:`\operatorname{diag}(p) - p p^\top`.

    Args:
        call: Arguments of :func:`torch.nn.functional.cross_entropy` or ``nll_loss``.

    Returns:
        The factors, with the shape of the targets without the classes.
    """
    logits: Tensor = call["input"].detach()
    target: Tensor = call["target"]
    classes, smoothing = logits.shape[1], float(call.get("label_smoothing", 0.0))
    weight = torch.ones(classes) if call["weight"] is None else call["weight"]
    weight = weight.to(logits)
    if target.shape == logits.shape:
        q = target * (1 - smoothing) + smoothing / classes
        return torch.matmul(q.to(logits).movedim(1, -1), weight)
    counted = target != call["ignore_index"]
    own = weight.take(torch.where(counted, target, 0))
    return ((1 - smoothing) * own + smoothing * weight.mean()).mul(counted)


def _is_loss(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return "loss" in name or name in _OTHER_LOSSES


_OTHER_LOSSES = (
    "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div",
)  # fmt: skip
"""The losses of torch without "loss" in their names. linear_cross_entropy calls one of these."""


def _arguments(func: Any, args: Any, kwargs: Any) -> dict[str, Any] | None:
    """The arguments of a loss function by name, None if it has no reduction."""
    try:
        bound = inspect.signature(func).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    call = bound.arguments
    if "reduction" not in call:
        return None
    if call.get("size_average") is not None or call.get("reduce") is not None:
        summed = call.get("size_average") is False
        call["reduction"] = "none" if call.get("reduce") is False else "sum" if summed else "mean"
    return call


def _divisor(func: Any, call: dict[str, Any]) -> float:
    """The divisor of the mean."""
    target: Any = call.get("target")
    weight = call.get("weight")
    if func in _CLASSIFICATION and target.shape == call["input"].shape:
        return float(target.numel() / target.shape[1])
    if func in _CLASSIFICATION:
        ones = torch.ones_like(call["input"], dtype=torch.float64)
        total = F.nll_loss(
            -ones,
            target,
            None if weight is None else weight.double(),
            ignore_index=call["ignore_index"],
            reduction="sum",
        )
        return float(total)
    if call["reduction"] == "batchmean":
        return float(len(call["input"]))
    legacy = {"size_average": None, "reduce": None}
    changed = {name: value for name, value in legacy.items() if name in call}
    every = func(**{**call, **changed, "reduction": "none"})
    if weight is not None and func in (F.mse_loss, F.l1_loss, F.huber_loss):
        return float(weight.double().expand_as(every).sum())
    return float(every.numel())
