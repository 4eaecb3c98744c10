"""Loss and error on a plane in weight space, measured on a grid."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dirprune.landscape.connectivity.paths import over_all
from dirprune.landscape.objectives.frame import Coordinates, Frame
from dirprune.landscape.objectives.objective import Measured, Objective
from dirprune.landscape.objectives.points import Point, StateDict
from dirprune.landscape.objectives.policy import BatchNormStatistics, Policy
from dirprune.landscape.objectives.sweep import ReportProgress, SweepPoint, digest, sweep
from dirprune.landscape.objectives.weights import Loss

PlaneGrid = list[list[float]]
"""Values at (x, y): one row for every y, one value in it for every x."""


@dataclass(frozen=True)
class PlaneFigures:
    """Measurements on a plane.

    Attributes:
        frame: Maps coordinates to weights; its ``project`` maps weights to coordinates.
        x: Coordinates of the grid's columns.
        y: Coordinates of its rows.
        loss: Losses by data set.
        error: Errors by data set, for data sets whose targets are classes.
        known: Coordinates of the given networks.
        measured: Measurements of the given networks under the policy, by data set.
        stored: Measurements with their own BatchNorm statistics, by data set.
        shifts: Difference of the policy's statistics to the stored ones; see
            :meth:`BatchNormStatistics.shift`.
        policy: Policy for BatchNorm's statistics.
    """

    frame: Frame
    x: list[float]
    y: list[float]
    loss: dict[str, PlaneGrid]
    error: dict[str, PlaneGrid]
    known: list[Coordinates]
    measured: list[dict[str, Measured]]
    stored: list[dict[str, Measured]]
    shifts: list[dict[str, float] | None]
    policy: Policy


def plane(
    a: StateDict,
    b: StateDict,
    c: StateDict,
    model: nn.Module,
    loss: Loss,
    data: Mapping[str, Any],
    *,
    points: int = 21,
    margin: float = 0.2,
    policy: Policy = "refresh",
    save: Path | None = None,
    progress: ReportProgress | None = None,
) -> PlaneFigures:
    """Measure the plane through three networks, in evaluation mode.

    The first axis goes from a through b, and c has a positive second coordinate. Coordinates are
    distances.

    Args:
        a: State dict of the network at the origin.
        b: State dict of a second network.
        c: State dict of a third, such as the bend of a curve from a to b.
        model: Their module; it is copied, not changed.
        loss: Mean loss of a batch.
        data: Frozen data by name. BatchNorm's statistics are re-estimated on the first.
        points: Points in each direction of the grid, at least 2; the paper has 21 or 29.
        margin: Extent of the grid beyond the networks, as a share of their distance in that
            direction; the paper has 0.2.
        policy: Policy for BatchNorm's statistics: refresh, interpolate or eval; see
            :class:`BatchNormStatistics`.
        save: A file to resume from after an interruption.
        progress: Called after every point with the number of points done and their total.

    Returns:
        The figures.

    Raises:
        ValueError: If two networks are identical, all three are on one line, or they are of other
            models; if the loss at one is not finite, an option is out of range, or ``save``
            belongs to other work.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), Figures 1 and 5

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> corners = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> networks = [{"weight": w} for w in corners]
        >>> data = {"train": (torch.eye(2), torch.zeros(2, 1))}
        >>> plane(*networks, model, nn.functional.mse_loss, data, points=2, margin=0.0).loss
        {'train': [[0.0, 0.5], [0.5, 1.0]]}
    """
    if not 0 <= margin < float("inf"):
        raise ValueError(f"margin must be at least 0 and finite, got {margin}")
    objectives = over_all(model, loss, data)
    layout = next(iter(objectives.values())).layout
    known = {n: layout.point(state, n) for n, state in (("a", a), ("b", b), ("c", c))}
    layout.check_distinct(known)
    frame = Frame.through(*known.values())
    _, (bx, _, _), (cx, cy, _) = (frame.project(p.w) for p in known.values())
    x = _axis(min(0.0, cx), max(bx, cx), margin, points)
    y = _axis(0.0, cy, margin, points)

    def shares(x: float, y: float) -> Sequence[float]:
        of_c = y / cy
        of_b = (x - of_c * cx) / bx
        return 1 - of_b - of_c, of_b, of_c

    return _measure(frame, x, y, known, objectives, policy, shares, save, progress)


def plane_along(
    w: StateDict,
    u: Tensor,
    v: Tensor,
    model: nn.Module,
    loss: Loss,
    data: Mapping[str, Any],
    *,
    points: int = 21,
    span: float = 1.0,
    policy: Policy = "refresh",
    save: Path | None = None,
    progress: ReportProgress | None = None,
) -> PlaneFigures:
    """Measure the plane through one network along two directions.

    Coordinates are multiples of the directions as they are given.

    Args:
        w: State dict of the network at the origin.
        u: First direction, with shape (d,): an eigenvector, or one of :func:`filter_normalised`.
        v: Second direction, likewise; not parallel to the first.
        model: The network's module; it is copied, not changed.
        loss: Mean loss of a batch.
        data: Frozen data by name. BatchNorm's statistics are re-estimated on the first.
        points: Points in each direction of the grid, at least 2; with an odd number the network
            is a point of the grid.
        span: The grid covers -span to span in both directions.
        policy: Policy for BatchNorm's statistics; see :class:`BatchNormStatistics`.
        save: A file to resume from after an interruption.
        progress: Called after every point with the number of points done and their total.

    Returns:
        The figures.

    Raises:
        ValueError: If the directions span no plane or have another size, the loss at the network
            is not finite, an option is out of range, or ``save`` belongs to other work.

    References:
        Visualizing the Loss Landscape of Neural Nets (Li et al., 2018),
        https://arxiv.org/abs/1712.09913

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> data = {"train": (torch.eye(2), torch.zeros(2, 1))}
        >>> w, (u, v) = {"weight": torch.zeros(1, 2)}, torch.eye(2)
        >>> plane_along(w, u, v, model, nn.functional.mse_loss, data, points=3).loss["train"]
        [[1.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 1.0]]
    """
    if not 0 < span < float("inf"):
        raise ValueError(f"span must be positive and finite, got {span}")
    objectives = over_all(model, loss, data)
    layout = next(iter(objectives.values())).layout
    known = {"w": layout.point(w, "w")}
    for direction in (u, v):
        layout.tensors(direction)
    frame = Frame(known["w"].w, torch.stack([u, v]))
    axis = _axis(-span, span, 0.0, points)
    return _measure(
        frame, axis, axis, known, objectives, policy, lambda x, y: (1.0,), save, progress
    )


def _measure(
    frame: Frame,
    x: list[float],
    y: list[float],
    known: Mapping[str, Point],
    objectives: Mapping[str, Objective],
    policy: Policy,
    shares: Callable[[float, float], Sequence[float]],
    save: Path | None,
    progress: ReportProgress | None,
) -> PlaneFigures:
    points = list(known.values())
    statistics = BatchNormStatistics(next(iter(objectives.values())), policy, points)
    stored = [{n: f(p, name) for n, f in objectives.items()} for name, p in known.items()]
    shifts = [statistics.shift(k) for k in range(len(points))]
    places = [(i, j) for j in y for i in x]

    def place(k: int) -> SweepPoint:
        """The known points first, then the grid."""
        if k < len(points):
            return SweepPoint(points[k].w, [float(k == i) for i in range(len(points))])
        i, j = places[k - len(points)]
        return SweepPoint(frame.at(i, j), shares(i, j))

    found = sweep(
        len(points) + len(places),
        place,
        objectives,
        statistics,
        key=("plane", x, y, digest(frame.axes)),
        save=save,
        progress=progress,
    )

    def grid(values: Tensor) -> PlaneGrid:
        rows: PlaneGrid = values[len(points) :].view(len(y), len(x)).tolist()
        return rows

    errors = {name: m.error for name, m in found.items() if m.error is not None}
    measured = [
        {
            name: Measured(float(m.loss[k]), None if m.error is None else float(m.error[k]))
            for name, m in found.items()
        }
        for k in range(len(points))
    ]
    return PlaneFigures(
        frame,
        x,
        y,
        {name: grid(m.loss) for name, m in found.items()},
        {name: grid(error) for name, error in errors.items()},
        [frame.project(p.w) for p in points],
        measured,
        stored,
        shifts,
        policy,
    )


def _axis(low: float, high: float, margin: float, points: int) -> list[float]:
    if points < 2:
        raise ValueError(f"a grid needs at least 2 points in each direction, got {points}")
    room = margin * (high - low)
    axis: list[float] = np.linspace(low - room, high + room, points).tolist()
    return axis
