"""The paper's own measurements of landscapes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dirprune.report.shared.decode import build


@dataclass(frozen=True)
class Ratios:
    """|P (w_SGD - w_gRDA)| / |w_SGD - w_gRDA| at checkpoints, P on ten eigenvectors."""

    mu: float
    c: float
    epochs: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Way:
    """At the gRDA end, at most, and at the SGD end of a "curve" or "line"; errors in [0, 1]."""

    mu: float
    c: float
    kind: str
    train_loss: tuple[float, ...]
    test_error: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """All that was published for one network and data set."""

    model: str
    data: str
    dimension: int
    ratios: tuple[Ratios, ...]
    paths: tuple[Way, ...]


@dataclass(frozen=True)
class Published:
    """The file."""

    settings: tuple[Setting, ...]


@cache
def published() -> Sequence[Setting]:
    """Everything that was published.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), section 4.2, from the
        authors' data; the ratios in Figure 6 are these, divided by the square root of ten.

    Example:
        >>> [(setting.model, setting.data) for setting in published()]
        [('vgg16', 'cifar10'), ('wrn28x10', 'cifar10'), ('wrn28x10', 'cifar100')]
    """
    place = files("dirprune.report.landscape").joinpath("published.json")
    return build(Published, json.loads(place.read_text(encoding="utf-8")), str(place)).settings


def of_dimension(dimension: int | None) -> Setting | None:
    """What was published for a network of so many weights; it is the paper's if they agree."""
    return next((found for found in published() if found.dimension == dimension), None)
