"""How sparse a gRDA run will end, foretold from its accumulators; and the c a target needs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from dirprune.grda import GRDA
from dirprune.threshold import threshold_increment

RANKS = 1001
"""Points of the distribution of |v| that are remembered."""


@dataclass(frozen=True)
class Magnitudes:
    """The distribution of a run's accumulators at one moment.

    Attributes:
        threshold: Largest threshold g at that moment.
        quantiles: Of :math:`|v|` over all thresholded parameters at `RANKS` equidistant ranks,
            float64.
    """

    threshold: float
    quantiles: Tensor


def magnitudes(optimizer: GRDA) -> Magnitudes:
    """Summarise the accumulators of all thresholded parameters.

    Args:
        optimizer: At least one of its param groups has ``c`` above 0.

    Returns:
        Their distribution now; before the first step that of the weights, from which they start.

    Raises:
        ValueError: If nothing is thresholded.
        TypeError: If the optimizer is not GRDA.

    Example:
        >>> optimizer = GRDA([torch.nn.Parameter(torch.tensor([0.0, -1.0, 2.0]))])
        >>> magnitudes(optimizer).quantiles[[0, 500, 1000]]
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    clocks = _clocks(optimizer, ())
    ordered = torch.cat([clock.sizes for clock in clocks]).sort().values
    place = torch.linspace(0, len(ordered) - 1, RANKS, dtype=torch.float64)
    below = place.long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    quantiles = torch.lerp(ordered[below].double(), ordered[above].double(), place - below)
    return Magnitudes(max(clock.g for clock in clocks), quantiles)


def forecast_sparsity(
    optimizer: GRDA, future_lrs: list[float], past: Magnitudes | None = None
) -> float:
    r"""Foretell the share of zeros among all parameters at the end of a run.

    The threshold's path is known: from now on it grows by :math:`cK` with
    :math:`K = \sum_i \gamma_i^{\mu+1/2} ((n+i)^\mu - (n+i-1)^\mu)`. The accumulators move too:
    in flat directions those of living weights are pushed outwards as g grows, and learning
    spreads them as time goes by. Both go on at the pace r seen since ``past`` at the same rank of
    :math:`|v|`, half per unit of g and half per unit of time (in which g would grow by
    :math:`c_0 K` with the present :math:`c_0`), so that with :math:`c` for the rest of the run

    .. math::
        |v|_{end} = |v| + \tfrac{r}{2} (c + c_0) K, \qquad
        w_{end} = 0 \iff |v|_{end} \leq g + c K

    The half is the method's one constant, fitted to small networks; results/forecast has the
    errors. What is zero now is taken to stay so.

    Args:
        optimizer: In the midst of the run.
        future_lrs: Learning rate of every step that is still to come.
        past: An earlier moment of the run, best about a quarter of the way back; by default the
            accumulators are taken to stand still (r = 0).

    Returns:
        Zeros over all parameters of the optimizer, those that are not thresholded included.

    Raises:
        ValueError: If nothing is thresholded.
        TypeError: If the optimizer is not GRDA.

    Note:
        Fails where r is not yet what it will be: in the first tenth of a run, and, by one to
        three points even at its third, in runs of few epochs, where r still rises.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([0.1, 0.3, 0.7, 2.0]))
        >>> forecast_sparsity(GRDA([w], c=0.5, mu=0.5), [1.0] * 4)  # g ends at 1
        0.75
    """
    scales = _ending_scales(optimizer, future_lrs, past)
    cut = sum(int((values <= c).sum()) for values, c in scales)
    return cut / _total(optimizer)


def c_for_sparsity(
    optimizer: GRDA, future_lrs: list[float], target: float, past: Magnitudes | None = None
) -> float:
    """Return the c that, from now on, makes a run end with a share of zeros.

    The inverse of :func:`forecast_sparsity`: g keeps what it has, c multiplies what is to come.

    Args:
        optimizer: In the midst of the run.
        future_lrs: Learning rate of every step that is still to come.
        target: Zeros over all parameters of the optimizer, in [0, 1).
        past: An earlier moment of the run, as in :func:`forecast_sparsity`.

    Returns:
        The c, the same for every thresholded param group; 0 if the zeros of now are enough.

    Raises:
        ValueError: If the target cannot be reached; the message says what can.
        TypeError: If the optimizer is not GRDA.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([0.1, 0.3, 0.7, 2.0]))
        >>> optimizer = GRDA([w], c=0.005, mu=0.5)
        >>> round(c_for_sparsity(optimizer, [1.0] * 4, 0.5), 6)  # so that g ends at .5
        0.25
    """
    scales = torch.cat([values for values, _ in _ending_scales(optimizer, future_lrs, past)])
    scales = scales.sort().values
    total = _total(optimizer)
    # Rounding guards against 0.7 * 10 = 7.000000000000001, which would ask for 8 zeros.
    needed = math.ceil(round(target * total, 6))
    lowest = int((scales == 0).sum())
    highest = int(scales.isfinite().sum())
    if not lowest <= needed <= highest or not 0 <= target < 1:
        raise ValueError(
            f"a sparsity of {target:.2%} cannot be reached: from here on, the run can end between "
            f"{lowest / total:.2%} and {highest / total:.2%}; give a target in this range"
        )
    if needed == lowest:
        return 0.0
    cut = float(scales[needed - 1])
    spared = float(scales[needed]) if needed < len(scales) else math.inf
    # Between the last that goes and the first that stays, so that rounding moves neither.
    return (cut + spared) / 2 if spared < math.inf else 2 * cut


@dataclass(frozen=True)
class _Clock:
    """Parameters that share n and g, and with them the threshold's future."""

    sizes: Tensor  # flat |v|
    g: float
    c: float
    growth: float  # of g until the end, at c = 1


def _clocks(optimizer: Optimizer, future_lrs: list[float] | tuple[()]) -> list[_Clock]:
    if not isinstance(optimizer, GRDA):
        raise TypeError(f"only GRDA has a threshold to forecast, got {type(optimizer).__name__}")
    members: dict[tuple[int, int, float], list[Tensor]] = {}
    for i, group in enumerate(optimizer.param_groups):
        for p in group["params"] if group["c"] > 0 else ():
            state: dict[str, Any] = optimizer.state.get(p, {})
            key = i, state.get("n", 0), state.get("g", 0.0)
            members.setdefault(key, []).append(state.get("v", p).detach().abs().flatten())
    if not members:
        raise ValueError("no parameter is thresholded: give c above 0")
    clocks = []
    for (i, n, g), sizes in members.items():
        group = optimizer.param_groups[i]
        growth = _growth(n, group["mu"], [lr / (1 - group["momentum"]) for lr in future_lrs])
        clocks.append(_Clock(torch.cat(sizes), g, group["c"], growth))
    return clocks


def _total(optimizer: GRDA) -> int:
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def _growth(n: int, mu: float, lrs: list[float]) -> float:
    moving = [lr for lr in lrs if lr > 0]
    return sum(threshold_increment(i, lr, 1.0, mu) for i, lr in enumerate(moving, start=n + 1))


def _ending_scales(
    optimizer: GRDA, future_lrs: list[float], past: Magnitudes | None
) -> list[tuple[Tensor, float]]:
    """For every thresholded weight the smallest c that lets it end as zero, and its present c."""
    clocks = _clocks(optimizer, future_lrs)
    now = magnitudes(optimizer) if past is not None else None
    scales = []
    for clock in clocks:
        sizes = clock.sizes.double()
        half = _pace(sizes, now, past) / 2
        missing = sizes - clock.g
        growth = torch.as_tensor(clock.growth, dtype=torch.float64)  # a tensor divides by 0
        wanted = (missing / growth + half * clock.c) / (1 - half)
        scales.append((torch.where(missing <= 0, 0.0, wanted.clamp(min=0)), clock.c))
    return scales


def _pace(sizes: Tensor, now: Magnitudes | None, past: Magnitudes | None) -> Tensor:
    """Movement of accumulators of these sizes per unit of g, below 1 as for a living weight."""
    if now is None or past is None or now.threshold <= past.threshold:
        return torch.zeros_like(sizes)
    pace = (now.quantiles - past.quantiles) / (now.threshold - past.threshold)
    values = np.interp(sizes.cpu().numpy(), now.quantiles.cpu().numpy(), pace.cpu().numpy())
    return torch.from_numpy(values).to(sizes.device).clamp(-1.0, 1.0)
