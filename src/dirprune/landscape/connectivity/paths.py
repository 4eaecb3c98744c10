"""Loss and error along a curve between two networks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dirprune.landscape.connectivity.curve import Curve
from dirprune.landscape.objectives.objective import Measured, Objective
from dirprune.landscape.objectives.policy import BatchNormStatistics, Policy
from dirprune.landscape.objectives.sweep import ReportProgress, SweepPoint, digest, sweep
from dirprune.landscape.objectives.weights import Loss


@dataclass(frozen=True)
class CurveProfile:
    r"""Values along a curve, at equal steps of t from 0 to 1.

    Attributes:
        values: v(t).

    Example:
        >>> hill = CurveProfile([0.0, 3.0, 2.0])
        >>> hill.barrier, hill.rise, hill.largest, hill.mean
        (2.0, 1.0, (0.5, 3.0), 2.0)
    """

    values: list[float]

    @property
    def largest(self) -> tuple[float, float]:
        """Position and size of the largest value; NaN is treated as infinite."""
        values = [math.inf if math.isnan(v) else v for v in self.values]
        k = values.index(max(values))
        return k / (len(values) - 1), values[k]

    @property
    def barrier(self) -> float:
        r"""The largest rise above the straight line between the end values, at least 0.

        .. math:: \max_t\; v(t) - (1 - t)\,v(0) - t\,v(1)

        References:
            The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks
            (Entezari et al., 2022), Definition 2.1; Linear Mode Connectivity and the Lottery
            Ticket Hypothesis (Frankle et al., 2020) has the mean of the ends instead.
        """
        last = len(self.values) - 1
        line = [
            self.values[0] + (self.values[-1] - self.values[0]) * k / last for k in range(last)
        ]
        above = [v - x for v, x in zip(self.values, line)]
        return max(0.0, *(math.inf if math.isnan(v) else v for v in above))

    @property
    def rise(self) -> float:
        """Rise of the values above the higher end, at least 0."""
        return self.largest[1] - max(self.values[0], self.values[-1])

    @property
    def mean(self) -> float:
        """Mean over t, by the trapezoidal rule."""
        inner = math.fsum(self.values[1:-1]) if all(map(math.isfinite, self.values)) else math.inf
        return (inner + (self.values[0] + self.values[-1]) / 2) / (len(self.values) - 1)


@dataclass(frozen=True)
class PathFigures:
    """Measurements along a curve.

    Attributes:
        t: T equal steps from 0 to 1.
        length: Length of the curve.
        distance: Distance of its ends.
        loss: Loss profiles by data set.
        error: Error profiles by data set, for data sets whose targets are classes.
        zeros: Share of weights that are exactly zero.
        off_face: Norm of the weights that are zero at the sparser end, over the norm of all; None
            if that end has no zeros.
        policy: Policy for BatchNorm's statistics, also at the ends.
        stored: Measurements of the two ends with their own statistics, by data set.
        shifts: Difference of the policy's statistics to the stored ones; see
            :meth:`BatchNormStatistics.shift`.
    """

    t: list[float]
    length: float
    distance: float
    loss: dict[str, CurveProfile]
    error: dict[str, CurveProfile]
    zeros: list[float]
    off_face: list[float] | None
    policy: Policy
    stored: tuple[dict[str, Measured], dict[str, Measured]]
    shifts: tuple[dict[str, float] | None, dict[str, float] | None]


def path(
    curve: Curve,
    model: nn.Module,
    loss: Loss,
    data: Mapping[str, Any],
    *,
    points: int = 61,
    policy: Policy = "refresh",
    save: Path | None = None,
    progress: ReportProgress | None = None,
) -> PathFigures:
    """Measure loss and error along a curve, in evaluation mode.

    Args:
        curve: From :func:`fit_bezier`, or :func:`straight_line`.
        model: Its module; it is copied, not changed.
        loss: Mean loss of a batch.
        data: Frozen data by name. BatchNorm's statistics are re-estimated on the first.
        points: Number of points, at least 3; the paper has 61.
        policy: Policy for BatchNorm's statistics: refresh, interpolate or eval; see
            :class:`BatchNormStatistics`.
        save: A file to resume from after an interruption.
        progress: Called after every point with the number of points done and their total.

    Returns:
        The figures.

    Raises:
        ValueError: If there are too few points or no data, the loss at an end is not finite, or
            ``save`` belongs to other work.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), section 4.2

    Example:
        >>> import torch
        >>> from dirprune.landscape import ParameterLayout, straight_line
        >>> model = nn.Linear(1, 1, bias=False)
        >>> layout = ParameterLayout(model)
        >>> ends = [layout.point({"weight": torch.tensor([[w]])}) for w in (-1.0, 1.0)]
        >>> x = torch.ones(1, 1)
        >>> data = {"train": (x, 2 * x)}
        >>> found = path(straight_line(*ends), model, nn.functional.mse_loss, data, points=3)
        >>> found.loss["train"].values, round(found.length, 9)
        ([9.0, 4.0, 1.0], 2.0)
    """
    if points < 3:
        raise ValueError(f"a path needs at least 3 points, its ends and one more, got {points}")
    objectives = over_all(model, loss, data)
    base = next(iter(objectives.values()))
    ends = {"the start": curve.a, "the end": curve.b}
    base.layout.check_distinct(ends)
    statistics = BatchNormStatistics(base, policy, (curve.a, curve.b))
    start, end = ({n: f(p, origin) for n, f in objectives.items()} for origin, p in ends.items())
    shifts = (statistics.shift(0), statistics.shift(1))
    ts = [k / (points - 1) for k in range(points)]
    measured = sweep(
        points,
        lambda k: SweepPoint(curve.at(ts[k]), (1 - ts[k], ts[k])),
        objectives,
        statistics,
        key=("path", points, digest(curve.bends)),
        save=save,
        progress=progress,
    )
    zeros, off_face = _sparsity(curve, ts)
    return PathFigures(
        ts,
        curve.length,
        curve.distance,
        {name: CurveProfile(m.loss.tolist()) for name, m in measured.items()},
        {
            name: CurveProfile(m.error.tolist())
            for name, m in measured.items()
            if m.error is not None
        },
        zeros,
        off_face,
        policy,
        (start, end),
        shifts,
    )


def over_all(model: nn.Module, loss: Loss, data: Mapping[str, Any]) -> dict[str, Objective]:
    """Make an objective for every data set.

    Args:
        model: Copied once, for all of them.
        loss: Mean loss of a batch.
        data: Frozen data by name, at least one.

    Raises:
        TypeError: If the data has no names.
        ValueError: If there is none.
    """
    if not isinstance(data, Mapping):
        raise TypeError(
            f"the data must be a dict from names to data, got a {type(data).__name__}: write "
            '{"train": ...}'
        )
    if not data:
        raise ValueError("at least one data set is needed, got none")
    (name, first), *others = data.items()
    base = Objective(model, loss, first)
    return {name: base} | {other: base.over(frozen) for other, frozen in others}


def _sparsity(curve: Curve, ts: Sequence[float]) -> tuple[list[float], list[float] | None]:
    """Share of zeros at every t, and the norm outside of the sparser end's support."""
    a, b = curve.a.w == 0, curve.b.w == 0
    face = b if int(b.sum()) > int(a.sum()) else a
    zeros, off = [], []
    for t in ts:
        w = curve.at(t)
        zeros.append(int((w == 0).sum()) / len(w))
        off.append(float(w[face].norm() / w.norm()) if bool(w.any()) else 0.0)
    return zeros, off if bool(face.any()) else None
