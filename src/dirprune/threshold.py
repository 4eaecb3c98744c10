"""The growth law of gRDA's threshold, for one step and for a whole run."""

import copy
import math
import warnings
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


def threshold_increment(n: int, lr: float, c: float, mu: float) -> float:
    r"""Compute the growth of the threshold at a parameter's ``n``-th step.

    .. math:: g_n - g_{n-1} = c\,\gamma_n^{\mu + 1/2}\,(n^\mu - (n-1)^\mu)

    With a constant rate the increments sum to the paper's tuning function
    :math:`g(n, \gamma) = c\,\gamma^{1/2} (n\gamma)^\mu`. With a schedule, every increment uses the
    current rate and earlier increments are never rescaled, as in the authors' code.

    Args:
        n: The step, counted from 1.
        lr: The rate :math:`\gamma_n \ge 0` of this step; with momentum :math:`\beta` the
            effective rate :math:`\gamma_n / (1 - \beta)`.
        c: Scale :math:`c \ge 0`.
        mu: Exponent in (0, 1].

    Returns:
        The increment, in the units of the weights.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), pseudocode in appendix C,
        https://arxiv.org/abs/2006.09358

    Example:
        >>> sum(threshold_increment(n, lr=1.0, c=0.5, mu=0.5) for n in range(1, 101))
        5.0
    """
    increment: float = c * lr ** (mu + 0.5) * (n**mu - (n - 1) ** mu)
    return increment


def effective_lr(lr: float, momentum: float) -> float:
    r"""Return the effective learning rate of heavy-ball momentum.

    .. math:: \gamma / (1 - \beta)

    Args:
        lr: Learning rate :math:`\gamma`.
        momentum: Heavy-ball factor :math:`\beta` in [0, 1).

    Returns:
        The effective rate, which determines the growth of the threshold.

    Example:
        >>> effective_lr(0.1, 0.5)
        0.2
    """
    return lr / (1 - momentum)


def threshold_path(
    c: float, mu: float, lrs: Sequence[float] | LRScheduler, steps: int | None = None
) -> Tensor:
    r"""Compute the threshold after every step of a run, before the run.

    .. math:: g_N = c \sum_{n=1}^{N} \gamma_n^{\mu + 1/2}\,(n^\mu - (n-1)^\mu)

    where n counts the steps with :math:`\gamma_n > 0` from the start of the run, as
    :class:`dirprune.GRDA` does. For a run in progress, include the rates of its past steps.

    Args:
        c: Scale :math:`c \ge 0`.
        mu: Exponent in (0, 1].
        lrs: The (effective) rate of every step, or a scheduler. A copy of the scheduler is
            stepped from its current state, with one ``scheduler.step()`` per optimizer step; rate
            and momentum are those of its first param group. For a scheduler that is stepped once
            per epoch, give the list instead.
        steps: Number of steps of the scheduler; only with a scheduler.

    Returns:
        float64, with shape (number of steps,).

    Raises:
        ValueError: If ``c``, ``mu``, a rate or ``steps`` is out of its range.
        TypeError: If a scheduler needs a metric (``ReduceLROnPlateau``), so that its rates are not
            known in advance.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), pseudocode in appendix C,
        https://arxiv.org/abs/2006.09358

    Example:
        >>> threshold_path(0.5, 0.5, [1.0] * 4)
        tensor([0.5000, 0.7071, 0.8660, 1.0000], dtype=torch.float64)
    """
    if not 0 <= c < math.inf:
        raise ValueError(f"c must be at least 0 and finite, got {c}")
    if not 0 < mu <= 1:
        raise ValueError(f"mu must lie in (0, 1], got {mu}")
    if isinstance(lrs, ReduceLROnPlateau):
        raise TypeError(
            "the rates of ReduceLROnPlateau depend on a metric and are not known in advance: give "
            "the rates as a list"
        )
    if isinstance(lrs, LRScheduler):
        if steps is None or steps < 1:
            raise ValueError(f"a scheduler needs steps of at least 1, got steps={steps}")
        lrs = _walk(lrs, steps)
    elif steps is not None:
        raise ValueError(
            f"steps={steps} is only for a scheduler: leave it out with a list of rates"
        )
    gamma = torch.as_tensor(lrs, dtype=torch.float64)
    if gamma.dim() != 1:
        raise ValueError(f"lrs must have one rate per step, got shape {tuple(gamma.shape)}")
    if not bool(((gamma >= 0) & gamma.isfinite()).all()):
        raise ValueError("every rate in lrs must be at least 0 and finite")
    n = (gamma > 0).cumsum(0).double()
    growth = n**mu - (n - 1).clamp(min=0) ** mu
    return (c * gamma ** (mu + 0.5) * growth).cumsum(0)


def _walk(scheduler: LRScheduler, steps: int) -> list[float]:
    """Effective rates of the next steps, from a copy of the scheduler without parameters."""
    optimizer = scheduler.optimizer
    stand_in = SimpleNamespace(
        param_groups=[
            {k: copy.deepcopy(v) for k, v in group.items() if k != "params"}
            for group in optimizer.param_groups
        ],
        defaults=optimizer.defaults,
        step=lambda: None,
    )
    twin = copy.deepcopy(scheduler, {id(optimizer): stand_in})
    rates = []
    with warnings.catch_warnings():
        # torch warns when a scheduler is stepped without its optimizer, as is done here
        warnings.simplefilter("ignore")
        for _ in range(steps):
            group = stand_in.param_groups[0]
            rates.append(effective_lr(float(group["lr"]), group.get("momentum", 0.0)))
            twin.step()
    return rates
