"""Arms: runs that differ in nothing but the seed, and how each is named and drawn."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dirprune.report.runs.read import Number, Run

# Okabe and Ito's palette (2008), told apart by colour-blind readers. Its black and its yellow
# become a grey and a dark yellow, so that every line shows on white and on dark grey alike.
COLOURS = {
    "sgd": "#767676",
    "grda": "#D55E00",
    "rda": "#E69F00",
    "prox_sgd": "#CC79A7",
    "gmp": "#009E73",
    "magnitude": "#0072B2",
    "random": "#56B4E9",
    "variational_dropout": "#9C8F00",
}
TITLES = {
    "sgd": "SGD",
    "grda": "gRDA",
    "rda": "RDA",
    "prox_sgd": "Proximal SGD",
    "gmp": "Gradual magnitude",
    "magnitude": "Magnitude",
    "random": "Random",
    "variational_dropout": "Variational dropout",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")


@dataclass(frozen=True)
class Arm:
    """Runs of one method and setting, one for each seed."""

    key: str
    label: str
    method: str
    colour: str
    dash: str
    symbol: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that all its runs share."""
        return self.runs[0].config

    @property
    def is_finished(self) -> bool:
        """Whether a run has come to its planned end."""
        return any(run.status == "finished" for run in self.runs)

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that enter means: the finished ones, or all while none is."""
        return tuple(run for run in self.runs if run.status == "finished") or self.runs

    def final(self, name: str) -> "Statistic":
        """Mean and spread of a final figure over the counted runs."""
        return statistic(run.final(name) for run in self.counted)


@dataclass(frozen=True)
class Statistic:
    """Mean and, of two values and more, sample standard deviation (n - 1)."""

    mean: Number
    std: Number
    n: int


def statistic(values: Iterable[Number]) -> Statistic:
    """Mean and sample standard deviation of what was measured.

    Args:
        values: None stands for not measured and is left out; NaN and infinity are kept.

    Returns:
        The mean is None of nothing, NaN where a value is not finite; the standard deviation is
        None below two finite values.

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
    """Group runs by everything but the seed.

    Args:
        runs: In any order; at least one.

    Returns:
        In order of first appearance. Colours tell methods apart, dashes and symbols the arms of
        one method; labels name what differs between them.
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
                symbol=SYMBOLS[place % len(SYMBOLS)],
                runs=group,
            )
        )
    return tuple(result)


def family(method: str) -> str:
    """The known method that a name starts with, else the name itself.

    Example:
        >>> family("grda_momentum")
        'grda'
    """
    known = [name for name in COLOURS if method == name or method.startswith(f"{name}_")]
    return max(known, key=len, default=method)


def colour(method: str) -> str:
    """The colour of a method everywhere in the report."""
    return COLOURS.get(family(method), "#9C8F00")


def method_of(config: Mapping[str, Any]) -> str:
    """The method's name, saying so where momentum is on."""
    method = str(config["method"])
    heavy = bool(config.get("momentum")) and "momentum" not in method
    return f"{method}_momentum" if heavy else method


def task(config: Mapping[str, Any]) -> str:
    """What is learnt by what: runs compare where this is the same.

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


def _title(method: str) -> str:
    kind = family(method)
    variant = method.removeprefix(kind).strip("_").replace("_", " ")
    joined = " with momentum" if variant == "momentum" else f", {variant}" if variant else ""
    return TITLES.get(kind, kind) + joined


def _labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A title for each arm, with the settings in which arms of that title differ."""
    titles = [_title(method_of(config)) for config in configs]
    tasks = [task(config) for config in configs]
    places = list(zip(titles, tasks, strict=True))
    labels = []
    for (title, where), config in zip(places, configs, strict=True):
        rivals = [c for c, place in zip(configs, places, strict=True) if place == (title, where)]
        differing = [
            f"{key}={_short(value)}"
            for key, value in config.items()
            if key != "seed" and any(rival.get(key) != value for rival in rivals)
        ]
        parts = [title, where if len(set(tasks)) > 1 else "", ", ".join(differing)]
        labels.append(" · ".join(part for part in parts if part))
    return labels


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"…{text[-23:]}"
