"""The paper's own points, to be drawn beside runs of the same model and data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Point:
    """A published result; accuracy and sparsity in [0, 1], ``std`` over its runs."""

    test_accuracy: float
    std: float | None
    sparsity: float
    runs: int
    c: float | None
    mu: float | None


@dataclass(frozen=True)
class Series:
    """The published points of one method."""

    method: str
    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Published:
    """All the paper reports for one model and data set, and how it was measured."""

    citation: str
    url: str
    note: str
    series: tuple[Series, ...]


def published(config: Mapping[str, Any]) -> Published | None:
    """The paper's points for the model and data of a run.

    Args:
        config: A run's settings.

    Returns:
        None unless the paper trained this very model (at full width) on this very data.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), Figures 4 and 7,
        https://arxiv.org/abs/2006.09358

    Example:
        >>> found = published({"model": "vgg16", "data": "cifar10", "width": 1.0})
        >>> [series.label for series in found.series]
        ['SGD', 'gRDA']
    """
    if config.get("width", 1.0) != 1:
        return None
    wanted = (config["model"], str(config["data"]).partition(":")[0])
    for setting in _table()["settings"]:
        if (setting["model"], setting["data"]) == wanted:
            series = tuple(
                Series(s["method"], s["label"], tuple(Point(**p) for p in s["points"]))
                for s in setting["series"]
            )
            return Published(_table()["citation"], _table()["url"], setting["note"], series)
    return None


def citation() -> tuple[str, str]:
    """How to cite the paper, and where it is."""
    return _table()["citation"], _table()["url"]


@cache
def _table() -> dict[str, Any]:
    text = files("dirprune.report.shared").joinpath("published.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
