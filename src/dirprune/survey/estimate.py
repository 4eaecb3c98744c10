"""Estimate the duration of a survey, and make it coarser to fit a time budget."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from dirprune.landscape import straight_line
from dirprune.landscape.connectivity.bezier import bend_gradient
from dirprune.landscape.connectivity.curve import bent_line
from dirprune.landscape.connectivity.paths import over_all
from dirprune.landscape.objectives.policy import BatchNormStatistics
from dirprune.survey.config import SurveyConfig, show_duration
from dirprune.survey.curvature import TOP_ELSEWHERE, hessian_at
from dirprune.survey.networks import Subject
from dirprune.survey.pruning import SPARSITIES

PLANNED_SHARE = 0.85
"""Share of a time budget that the plan may use."""
LOWER_LIMITS = {"samples": 500, "test_samples": 500, "points": 21, "grid": 9, "curve_epochs": 3}
LOWER_LIMITS |= {"steps": 15, "probes": 1, "eigenvectors": 3}
"""Lower limits when a time budget shrinks the survey."""


class Units(NamedTuple):
    """Durations in seconds.

    Attributes:
        evaluation: Evaluation of a point on all data, with the policy's statistics.
        product: One Hessian product.
        step: One step of fitting a curve.
    """

    evaluation: float
    product: float
    step: float


class Size(NamedTuple):
    """Amounts of work that the config does not determine.

    Attributes:
        others: Number of networks besides the dense one, controls included.
        runs: Number of those that are not controls.
        batches: Steps per epoch of fitting.
        moments: Number of checkpoints that the runs share.
        batchnorm: Whether statistics are refreshed.
        processes: Number of processes that share the points.
    """

    others: int
    runs: int
    batches: int
    moments: int
    batchnorm: bool
    processes: int = 1


def measure_units(subject: Subject, config: SurveyConfig) -> Units:
    """Time one evaluation, one product and one step, each after a warm-up."""
    dense, sparse = subject.networks[:2]
    line = straight_line(sparse.point, dense.point)
    objectives = over_all(subject.model, subject.loss, subject.data)
    statistics = BatchNormStatistics(
        objectives["train"], config.policy, [sparse.point, dense.point]
    )

    def evaluate() -> None:
        statistics.load(line.at(0.5), (0.5, 0.5))
        for objective in objectives.values():
            objective.measure()

    product = 0.0
    if {"hessian", "directional", "training"} & set(config.parts):
        op = hessian_at(subject, dense.point)
        v = torch.ones_like(dense.point.w)
        product = _timed(lambda: op(v))
    step = 0.0
    if "curve" in config.parts:
        curve = bent_line(sparse.point, dense.point, config.bends)
        with torch.random.fork_rng():
            x, y = next(iter(subject.training))
        batch = x.to(subject.layout.device, subject.layout.dtype), y.to(subject.layout.device)
        model = subject.model_at(dense.point).train()
        step = _timed(
            lambda: bend_gradient(model, subject.layout, subject.loss, batch, curve, 0.5)
        )
        model.eval()
    return Units(_timed(evaluate), product, step)


def estimate(config: SurveyConfig, size: Size, units: Units) -> dict[str, float]:
    """Estimate the duration of every part in seconds.

    Example:
        >>> size = Size(others=5, runs=1, batches=100, moments=0, batchnorm=False)
        >>> config = SurveyConfig(what="plane", grid=10)
        >>> estimate(config, size, Units(0.1, 1.0, 0.01))
        {'plane': 10.9}
    """
    top = _products(config.eigenvectors)
    elsewhere = size.runs * _products(min(TOP_ELSEWHERE, config.eigenvectors))
    densities = (config.probes + size.others) * config.steps
    tables = (len(SPARSITIES) + 1) * 6 * (2 if size.batchnorm else 1)
    first = 0 if "hessian" in config.parts else top
    counts: Mapping[str, tuple[float, float, float]] = {
        "hessian": (0, top + elsewhere + densities, 0),
        "directional": (tables, config.steps + first, 0),
        "curve": (
            size.others * (2 * config.points / size.processes + 8),
            0,
            size.others * config.curve_epochs * size.batches,
        ),
        "plane": (config.grid**2 / size.processes + 9, 0, 0),
        "along": (config.grid**2 / size.processes + 3, 0, 0),
        "training": (0, size.moments * top, 0),
    }
    return {part: sum(n * s for n, s in zip(counts[part], units)) for part in config.parts}


def within(
    config: SurveyConfig, seconds: float, cost: Callable[[SurveyConfig], float]
) -> SurveyConfig:
    """Reduce the numbers of a survey, which are upper limits, until it fits a time budget.

    Raises:
        ValueError: If even the smallest survey takes longer.
    """
    share = 1.0
    while True:
        smaller = _shrunk(config, share)
        needed = cost(smaller)
        if needed <= PLANNED_SHARE * seconds:
            return smaller
        if smaller == _shrunk(config, 0.0):
            raise ValueError(
                f"a budget of {config.budget} is too short, the coarsest survey takes about"
                f" {show_duration(needed / PLANNED_SHARE)}: give more time, or fewer parts"
                " (dirprune landscape --what)"
            )
        share *= 0.9


def _shrunk(config: SurveyConfig, share: float) -> SurveyConfig:
    values = {}
    for name, least in LOWER_LIMITS.items():
        requested = getattr(config, name)
        # The work on a grid grows with its square.
        part = share**0.5 if name == "grid" else share
        values[name] = max(min(requested, least), round(requested * part))
    return replace(config, **values)


def _products(k: int) -> int:
    """Products for k eigenpairs: on digits 2.3 k + 4, elsewhere somewhat more."""
    return 3 * k + 10


def _timed(call: Callable[[], object]) -> float:
    call()
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
