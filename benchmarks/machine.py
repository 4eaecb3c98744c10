"""Timing of interleaved calls, and figures written together with the machine."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dirprune._support.environment import environment


def interleaved(
    candidates: dict[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds of every call. Candidates are interleaved, so a drift of the machine affects all."""
    for _ in range(warmup):
        for call in candidates.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def quartiles(values: list[float], scale: float = 1.0) -> list[float]:
    """Lower quartile, median and upper quartile."""
    return [scale * q for q in statistics.quantiles(values, n=4, method="inclusive")]


def ratios(times: list[float], base: list[float]) -> list[float]:
    """Quartiles of the ratios of the same round."""
    return quartiles([a / b for a, b in zip(times, base)])


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures together with the machine they were measured on, if a path is given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = environment("cpu") | {"threads": torch.get_num_threads()}
        path.write_text(json.dumps({"environment": machine, **figures}, indent=1) + "\n")
