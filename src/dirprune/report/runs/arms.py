"""Arms: groups of runs that differ only in the seed, with names and styles."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dirprune.report.runs.read import Run
from dirprune.report.shared.numbers import Number
from dirprune.report.shared.styles import DASHES, SYMBOLS, Style, colour, family, title


@dataclass(frozen=True)
class Arm(Style):
    """Runs of one method and setting, one per seed."""

    method: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that all its runs share."""
        return self.runs[0].config

    @property
    def is_finished(self) -> bool:
        """Whether at least one run has finished."""
        return any(run.status == "finished" for run in self.runs)

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that are averaged: the finished runs, or all if none has finished."""
        return tuple(run for run in self.runs if run.status == "finished") or self.runs

    def final(self, name: str) -> "Statistic":
        """Mean and spread of a final figure over the counted runs."""
        return statistic(run.final(name) for run in self.counted)


@dataclass(frozen=True)
class Statistic:
    """Mean of n values and, for two or more values, the sample standard deviation (n - 1)."""

    mean: Number
    std: Number
    n: int


def statistic(values: Iterable[Number]) -> Statistic:
    """Return mean and sample standard deviation of the measured values.

    Args:
        values: None means not measured and is skipped; NaN and infinity are kept.

    Returns:
        The mean is None without values, and NaN if one of several values is not finite. The
        standard deviation is None with fewer than two finite values.

    Example:
        >>> statistic([1.0, None, 3.0])
        Statistic(mean=2.0, std=1.4142135623730951, n=2)
    """
    known = [value for value in values if value is not None]
    if not known:
        return Statistic(None, None, 0)
    if not all(math.isfinite(value) for value in known):
        return Statistic(known[0] if len(known) == 1 else math.nan, None, len(known))
    std = statistics.stdev(known) if len(known) > 1 else None
    return Statistic(statistics.fmean(known), std, len(known))


def arms(runs: Sequence[Run]) -> tuple[Arm, ...]:
    """Group runs by all settings except the seed.

    Args:
        runs: At least one run, in any order.

    Returns:
        The arms in order of first appearance. Colours distinguish methods, dashes the arms of one
        method, symbols neighbours in the list; labels name the settings that differ.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        setting = {key: value for key, value in run.config.items() if key != "seed"}
        groups.setdefault(repr(sorted(setting.items())), []).append(run)
    grouped = [tuple(sorted(g, key=lambda run: run.config["seed"])) for g in groups.values()]
    labels = _labels([group[0].config for group in grouped])
    seen: dict[str, int] = {}
    result = []
    for i, group in enumerate(grouped):
        kind = family(group[0].config["method"])
        place = seen.setdefault(kind, 0)
        seen[kind] += 1
        result.append(
            Arm(
                key=f"arm-{i}",
                label=labels[i],
                method=method_of(group[0].config),
                colour=colour(kind),
                dash=DASHES[place % len(DASHES)],
                symbol=SYMBOLS[i % len(SYMBOLS)],
                runs=group,
            )
        )
    return tuple(result)


def method_of(config: Mapping[str, Any]) -> str:
    """Return the method's name, with a suffix if momentum is on."""
    method = str(config["method"])
    heavy = bool(config.get("momentum")) and "momentum" not in method
    return f"{method}_momentum" if heavy else method


def task(config: Mapping[str, Any]) -> str:
    """Name model and data; runs with the same task are comparable.

    Example:
        >>> task({"model": "vgg16", "data": "cifar10:/data", "width": 0.25})
        'vgg16 (width 0.25) on cifar10'
    """
    name, _, folder = str(config["data"]).partition(":")
    place = folder.rstrip("/").rpartition("/")[2]
    data = f"{place} ({name})" if name == "imagefolder" and place else name
    width = config.get("width", 1.0)
    scale = "" if width == 1 else f" (width {width:g})"
    return f"{config['model']}{scale} on {data}"


def _labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each arm, with the settings in which arms of the same title differ."""
    titles = [title(method_of(config)) for config in configs]
    tasks = [task(config) for config in configs]
    places = list(zip(titles, tasks, strict=True))
    labels = []
    for (name, where), config in zip(places, configs, strict=True):
        rivals = [c for c, place in zip(configs, places, strict=True) if place == (name, where)]
        differing = [
            f"{key}={_short(value)}"
            for key, value in config.items()
            if key != "seed" and any(rival.get(key) != value for rival in rivals)
        ]
        parts = [name, where if len(set(tasks)) > 1 else "", ", ".join(differing)]
        labels.append(" · ".join(part for part in parts if part))
    return labels


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"…{text[-23:]}"


def subject(arms: Sequence[Arm]) -> Arm:
    """Return the main arm of the page: the first gRDA arm, otherwise the last arm."""
    return next((arm for arm in arms if "grda" in arm.method), arms[-1])


def baseline(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """Return the dense arm to compare with: the same task, epochs and kind of optimizer."""
    dense = "adamw" if arm.method.startswith("adam") else "sgd"
    twin = f"{dense}_momentum" if arm.method.endswith("_momentum") else dense
    for other in arms:
        alike = task(other.config) == task(arm.config)
        alike = alike and other.config["epochs"] == arm.config["epochs"]
        if alike and other.method == twin and other is not arm and other.is_finished:
            return other
    return None
