"""How long a survey will take, and how fine it can be within a time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from dirprune.landscape import straight_line
from dirprune.landscape.connectivity.bezier import bend_gradient
from dirprune.landscape.connectivity.curve import bent_line
from dirprune.landscape.connectivity.paths import over_all
from dirprune.landscape.objectives.policy import Statistics
from dirprune.survey.config import SurveyConfig, show_duration
from dirprune.survey.curvature import TOP_ELSEWHERE, hessian_at
from dirprune.survey.networks import Subject
from dirprune.survey.pruning import SPARSITIES

SPARE = 0.85
"""Share of a budget that is planned for."""
LEAST = {"samples": 500, "test_samples": 500, "points": 21, "grid": 9, "curve_epochs": 3}
LEAST |= {"steps": 15, "probes": 1, "eigenvectors": 3}
"""Below these a budget does not take the numbers."""


class Units(NamedTuple):
    """Seconds of one of each.

    Attributes:
        evaluation: A point, on all data, with the policy's statistics.
        product: With the Hessian.
        step: Of fitting a curve.
    """

    evaluation: float
    product: float
    step: float


class Size(NamedTuple):
    """What the work depends on besides the config.

    Attributes:
        others: Networks besides the dense one, controls included.
        runs: Of these, those that are no controls.
        batches: Steps in an epoch of fitting.
        moments: Checkpoints that the runs share.
        batchnorm: Whether statistics are refreshed.
        processes: That share the points.
    """

    others: int
    runs: int
    batches: int
    moments: int
    batchnorm: bool
    processes: int = 1


def measure_units(subject: Subject, config: SurveyConfig) -> Units:
    """Time one of each, after one to warm up."""
    dense, sparse = subject.networks[:2]
    line = straight_line(sparse.point, dense.point)
    objectives = over_all(subject.model, subject.loss, subject.data)
    statistics = Statistics(objectives["train"], config.policy, [sparse.point, dense.point])

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
    """Foretell the seconds of every part.

    Args:
        config: How fine.
        size: Of the work.
        units: Seconds of one of each.

    Returns:
        Seconds by part.

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
    """Make a survey as fine as fits into a time.

    Args:
        config: Its numbers are upper limits.
        seconds: The time.
        cost: Foretells the seconds of a survey.

    Returns:
        The config with smaller numbers.

    Raises:
        ValueError: If even the coarsest takes longer.
    """
    share = 1.0
    while True:
        smaller = _shrunk(config, share)
        needed = cost(smaller)
        if needed <= SPARE * seconds:
            return smaller
        if smaller == _shrunk(config, 0.0):
            raise ValueError(
                f"a budget of {config.budget} is too short, the coarsest survey takes about "
                f"{show_duration(needed / SPARE)}: give more time, or fewer parts in --what"
            )
        share *= 0.9


def _shrunk(config: SurveyConfig, share: float) -> SurveyConfig:
    values = {}
    for name, least in LEAST.items():
        asked = getattr(config, name)
        # The work on a grid goes with its square.
        part = share**0.5 if name == "grid" else share
        values[name] = max(min(asked, least), round(asked * part))
    return replace(config, **values)


def _products(k: int) -> int:
    """Products for k eigenpairs: 2.3 k + 4 on digits, whose spectra are kind; and some more."""
    return 3 * k + 10


def _timed(call: Callable[[], object]) -> float:
    call()
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
