"""Sparse averages of a run's weights: average v, then threshold."""

from collections.abc import Sequence

from torch import Tensor

from dirprune.optimizer.dual_averaging import DualAveraging


def accumulators(optimizer: DualAveraging) -> list[Tensor]:
    """Return the tensors to average: v of every parameter, or the weights if they are dense.

    Args:
        optimizer: :class:`dirprune.GRDA` or :class:`dirprune.AdamGRDA`.

    Returns:
        The optimizer's own tensors, in the order of its param groups; float32 or wider.

    Example:
        See :func:`averaged_weights`.
    """
    return [
        optimizer.state.get(p, {}).get("v", p.detach())
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def averaged_weights(optimizer: DualAveraging, averages: Sequence[Tensor]) -> list[Tensor]:
    r"""Threshold averages of the accumulators with the current thresholds.

    .. math:: \bar w = T_p(\bar v, g_n)

    An average of the weights themselves (EMA, SWA) is dense, because an entry stays nonzero in it
    once it was nonzero. The thresholded average of v is about as sparse as the weights.

    Args:
        optimizer: The optimizer of the run.
        averages: One for each tensor of :func:`accumulators`, such as an exponential average.

    Returns:
        New weights in the parameters' dtypes and in the order of :func:`accumulators`. To
        evaluate with them, copy them into the model and copy the original weights back
        afterwards; this does not change the run.

    Raises:
        ValueError: If their number or their shapes differ.

    Example:
        >>> import torch
        >>> from dirprune import GRDA
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.1]))
        >>> optimizer = GRDA([w], lr=0.1, c=0.5, mu=0.5)
        >>> average = [v.clone() for v in accumulators(optimizer)]
        >>> for _ in range(5):
        ...     w.grad = torch.randn(2) * 0.01
        ...     optimizer.step()
        ...     for a, v in zip(average, accumulators(optimizer)):
        ...         _ = a.lerp_(v, 0.1)
        >>> averaged_weights(optimizer, average)[0] == 0
        tensor([False,  True])
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if [tuple(p.shape) for p in parameters] != [tuple(a.shape) for a in averages]:
        raise ValueError(
            f"averages must have the shapes of the optimizer's {len(parameters)} parameters, got "
            f"{[tuple(a.shape) for a in averages]}; average the tensors of accumulators(optimizer)"
        )
    thresholded = optimizer.threshold_values(dict(zip(parameters, averages)))
    return [
        thresholded.get(p, average.detach()).to(p.dtype, copy=True)
        for p, average in zip(parameters, averages)
    ]
