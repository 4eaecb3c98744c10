"""The paper's results, for comparison with the same network on the same data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dirprune._support.decode import build


@dataclass(frozen=True)
class PublishedPoint:
    """A published result; accuracy and sparsity in [0, 1], ``std`` over its runs.

    ``schedule`` is that of :func:`dirprune.train.recipes.resnet50_imagenet`, if it has several.
    """

    test_accuracy: float
    std: float | None
    sparsity: float
    runs: int
    c: float | None
    mu: float | None
    schedule: str | None = None


@dataclass(frozen=True)
class Series:
    """The published points of one method."""

    method: str
    label: str
    points: tuple[PublishedPoint, ...]


@dataclass(frozen=True)
class Ratios:
    """|P (w_SGD - w_gRDA)| / |w_SGD - w_gRDA| at checkpoints, P on ten eigenvectors."""

    mu: float
    c: float
    epochs: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class PublishedPath:
    """Values at the gRDA end, the largest, and at the SGD end of a "curve" or "line"."""

    mu: float
    c: float
    kind: str
    train_loss: tuple[float, ...]
    test_error: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """Everything published for one network on one data set."""

    model: str
    data: str
    note: str
    series: tuple[Series, ...]
    dimension: int | None = None
    ratios: tuple[Ratios, ...] = ()
    paths: tuple[PublishedPath, ...] = ()


@dataclass(frozen=True)
class Paper:
    """The paper, and its results."""

    citation: str
    url: str
    settings: tuple[Setting, ...]


@cache
def paper() -> Paper:
    """Return everything that was published.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), Figures 4 and 7 and
        section 4.2, https://arxiv.org/abs/2006.09358. The ratios in Figure 6 are those of the
        authors' data, which are given here, divided by the square root of ten.

    Example:
        >>> [setting.model for setting in paper().settings]
        ['vgg16', 'wrn28x10', 'wrn28x10', 'resnet50']
    """
    place = files("dirprune.report.shared").joinpath("published.json")
    return build(Paper, json.loads(place.read_text(encoding="utf-8")), str(place))


def published(config: Mapping[str, Any]) -> Setting | None:
    """Return the paper's results for the model and the data of a run.

    Args:
        config: A run's settings.

    Returns:
        The results, or None unless the paper used this model (at full width) and data.

    Example:
        >>> found = published({"model": "vgg16", "data": "cifar10", "width": 1.0})
        >>> [series.label for series in found.series]
        ['SGD', 'gRDA']
    """
    wanted = (config["model"], str(config["data"]).partition(":")[0])
    is_full = config.get("width", 1.0) == 1
    return next((s for s in paper().settings if is_full and (s.model, s.data) == wanted), None)


def of_dimension(dimension: int | None) -> Setting | None:
    """Return the paper's results for the network with this number of weights, if it is one."""
    known = (s for s in paper().settings if s.dimension is not None)
    return next((s for s in known if s.dimension == dimension), None)
