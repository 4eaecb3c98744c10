r"""The weight of each batch in the mean over all data.

A loss that averages over targets is a weighted mean, and the mean over all data is

.. math:: L = \frac{\sum_b W_b L_b}{\sum_b W_b}

where :math:`W_b` is the divisor of the loss of batch b: its samples, its tokens that are not
ignored, or the sum of its targets' class weights. If the loss calls functions of
:mod:`torch.nn.functional`, these calls are recorded and give :math:`W_b` exactly. For any other
loss, its derivative by the outputs z of two concatenated batches a and b gives the ratio:

.. math:: \nabla_{z_b} L_{ab} = \frac{W_b}{W_a + W_b} \nabla_{z_b} L_b
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dirprune.landscape.objectives.loss_calls import LossCalls
from dirprune.landscape.objectives.outputs import flatten, join

Loss = Callable[[Any, Tensor], Tensor]
"""Maps outputs and targets of a batch to their mean loss, such as ``F.cross_entropy``."""


def check_scalar(value: Any) -> None:
    """Raise a TypeError unless the result of a loss is a tensor with one number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"the loss must return one number, got {shape}: average over samples")


class LossInputs(NamedTuple):
    """The arguments of the loss of a batch.

    Attributes:
        outputs: Outputs of the model, without derivatives.
        targets: Targets of N samples.
    """

    outputs: Any
    targets: Tensor


def batch_weights(loss: Loss, batches: Iterable[LossInputs]) -> list[float]:
    r"""Find the weight :math:`W_b` of every batch.

    Args:
        loss: Mean loss of a batch.
        batches: All data, read once; an iterator may call the model.

    Returns:
        The number of samples of every batch if all samples have the same weight; otherwise the
        sum of the samples' weights, up to a common factor.

    Raises:
        ValueError: If the loss is not a weighted mean.

    Example:
        >>> import torch.nn.functional as F
        >>> targets = torch.tensor([[0, 1], [0, -100]])
        >>> batches = [LossInputs(torch.zeros(1, 3, 2), y[None]) for y in targets]
        >>> batch_weights(F.cross_entropy, batches)
        [2.0, 1.0]
    """
    samples, weights, others = list[int](), list[float | None](), dict[int, LossInputs]()
    reference: LossInputs | None = None
    pair: list[tuple[LossInputs, float]] = []
    for number, (batch, value, calls) in enumerate(_losses(loss, batches)):
        samples.append(len(batch.targets))
        weights.append(calls.weight(value))
        if weights[-1] is not None:
            if weights[-1] and len(pair) < 2:
                pair.append((batch, weights[-1]))
            continue
        if reference is None and bool(value.isfinite()):
            reference = batch
        others[number] = batch
        if reference is not None:
            for n, waiting in others.items():
                weights[n] = _relative(loss, reference, waiting, n)
            others.clear()
    for n in others:  # the loss is finite nowhere
        weights[n] = float(samples[n])
    if len(pair) == 2:
        _check_pair(loss, *pair)
    found = [weight for weight in weights if weight is not None]
    shares = {weight / count for weight, count in zip(found, samples)}
    return (
        [float(count) for count in samples] if len(shares - {0.0}) == 1 == len(shares) else found
    )


def _losses(
    loss: Loss, batches: Iterable[LossInputs]
) -> Iterator[tuple[LossInputs, Tensor, LossCalls]]:
    """Every batch with its loss; a model that computes its own loss does so in ``next``."""
    stream = iter(batches)
    while True:
        with LossCalls() as calls:
            batch = next(stream, None)
            if batch is None:
                return
            value = loss(*batch)
        yield batch, value, calls


def _relative(loss: Loss, reference: LossInputs, batch: LossInputs, number: int) -> float:
    """A batch's weight, from the derivatives of its loss and of the loss of two batches."""
    if batch is reference:
        return float(len(batch.targets))
    weight = _by_derivatives(loss, reference, batch)
    if weight is not None:
        return weight
    weights = [_by_division(loss, b) for b in (reference, batch)]
    if None in weights:
        raise ValueError(
            f"batch {number} and the first batch differ in shape, so the weight of each in the "
            "mean over all data is not known: return the mean of one of torch's loss functions, "
            "divide by the number of what is averaged as the last step, or give all data as one "
            "batch"
        )
    ours, its = (float(w) for w in weights if w is not None)
    return its / ours * len(reference.targets)


def _check_pair(
    loss: Loss, first: tuple[LossInputs, float], second: tuple[LossInputs, float]
) -> None:
    """Check that a batch does not affect the loss of another, as in a contrastive loss."""
    (a, weight_a), (b, weight_b) = first, second
    found = _by_derivatives(loss, a, b)
    expected = weight_b / weight_a * len(a.targets)
    if found is not None and abs(found - expected) > 1e-2 * expected:
        raise ValueError(_REFUSAL.format(f"weights of {found:.3g} and {expected:.3g}"))


def _by_derivatives(loss: Loss, reference: LossInputs, batch: LossInputs) -> float | None:
    """A batch's weight, or None if the two batches cannot be concatenated."""
    for double in (True, False):
        try:
            return _ratio_of_weights(loss, *(_cast(b, double) for b in (reference, batch)))
        except _NoWeightedMean as error:  # noqa: PERF203
            raise ValueError(_REFUSAL.format(error)) from None
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue  # the loss refuses float64, or the batches cannot be concatenated
    return None


_REFUSAL = (
    "the loss of two concatenated batches is not a weighted mean of their losses ({}), so "
    "there is no mean over all data: give a loss that averages over samples or tokens, or give "
    "all data as one batch"
)


class _NoWeightedMean(Exception):
    pass


def _ratio_of_weights(loss: Loss, a: LossInputs, b: LossInputs) -> float:
    samples = (len(a.targets), len(b.targets))
    together = LossInputs(join(a.outputs, b.outputs, samples), torch.cat([a.targets, b.targets]))
    alone = [_slope(loss, batch, len(batch.targets)) for batch in (a, b)]
    joint = _slope(loss, together, sum(samples))
    parts = [[g[: samples[0]] for g in joint], [g[samples[0] :] for g in joint]]
    tolerance = torch.finfo(joint[0].dtype).eps ** 0.5 if joint else 0.0
    found = [_ratio(part, own, tolerance) for part, own in zip(parts, alone)]
    if found == [None, None]:
        return float(samples[1])  # all derivatives are zero, so all samples have the same weight
    share_a = found[0] if found[0] is not None else 1 - found[1]  # type: ignore[operator]
    share_b = found[1] if found[1] is not None else 1 - share_a
    if abs(share_a + share_b - 1) > tolerance:
        raise _NoWeightedMean(f"shares of {share_a:.3g} and {share_b:.3g}")
    if abs(share_a) <= tolerance:
        raise _NoWeightedMean(f"shares of {share_a:.3g} and {share_b:.3g}")
    weight = share_b / share_a * samples[0]
    return float(samples[1]) if abs(weight - samples[1]) <= tolerance * samples[1] else weight


def _ratio(part: Sequence[Tensor], own: Sequence[Tensor], tolerance: float) -> float | None:
    """Ratio of the lengths of two parallel derivatives, or None if the second is zero."""
    g = torch.cat([t.reshape(-1).double() for t in part])
    e = torch.cat([t.reshape(-1).double() for t in own])
    length = float(e @ e)
    if not 0 < length < float("inf"):
        return None
    ratio = float(g @ e) / length
    error = float((g - ratio * e).norm()) / length**0.5
    if not error <= tolerance:
        raise _NoWeightedMean(f"a batch acts on another, by {error:.1e} of its derivative")
    return ratio


def _slope(loss: Loss, batch: LossInputs, samples: int) -> list[Tensor]:
    """The derivatives of a loss by the outputs that have samples."""
    tensors, rebuild = flatten(batch.outputs)
    leaves = [
        t.detach().requires_grad_(t.is_floating_point() and t.dim() > 0 and len(t) == samples)
        for t in tensors
    ]
    with torch.enable_grad():
        value = loss(rebuild(leaves), batch.targets)
        wanted = [t for t in leaves if t.requires_grad]
        grads = torch.autograd.grad(value, wanted, materialize_grads=True, allow_unused=True)
    return list(grads)


def _cast(batch: LossInputs, double: bool) -> LossInputs:
    if not double:
        return batch
    tensors, rebuild = flatten(batch.outputs)
    outputs = rebuild([t.double() if t.is_floating_point() else t for t in tensors])
    targets = batch.targets
    return LossInputs(outputs, targets.double() if targets.is_floating_point() else targets)


def _by_division(loss: Loss, batch: LossInputs) -> float | None:
    """The divisor of the loss, if it doubles when every sample is duplicated."""
    samples = len(batch.targets)
    twice = join(batch.outputs, batch.outputs, (samples, samples))
    found = []
    for outputs, targets in (batch, (twice, torch.cat([batch.targets, batch.targets]))):
        with LossCalls() as calls:
            value = loss(outputs, targets)
        found.append(calls.denominator(value))
    one, two = found
    return one if one is not None and two == 2 * one else None
