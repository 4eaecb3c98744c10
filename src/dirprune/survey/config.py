"""The options of a survey: one frozen dataclass, which the command line shows as options."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from dirprune._support.suggestions import did_you_mean

PARTS = ("hessian", "directional", "curve", "plane", "along", "training")
"""The parts of a survey, in the order in which they are measured."""

_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class SurveyConfig:
    """What is measured around finished runs, and how finely.

    Attributes:
        what: Parts, separated by commas: hessian (sharp directions, spectrum, energy of the
            differences in it),
            directional (one-shot pruning by Definition 1.1), curve, plane, along (two random
            directions), training (projection ratios at every saved checkpoint).
        samples: Training images to measure on, without augmentation; 0 takes all.
        test_samples: Test images to measure on; 0 takes all.
        points: Points on lines and curves.
        grid: Points of planes in each direction.
        margin: Margin of the plane around its networks, as a share of their extent.
        curve_epochs: Passes over the training data to fit a curve.
        bends: Number of control points of a curve between its ends.
        curve_lr: Learning rate for curves.
        curve_momentum: Momentum for curves; the paper has .9 for VGG16 and none for WRN28x10.
        eigenvectors: Number k of sharp directions.
        steps: Hessian products for the density of each direction.
        probes: Random directions for the density of the spectrum.
        policy: BatchNorm's statistics between networks: refresh, interpolate or eval.
        seed: Seed of the choice of images, the random directions and the order of batches.
        budget: Time budget, such as 90s, 10m or 2h; the numbers above are then upper limits.
        model: For plain checkpoints: a model of dirprune, or module.path:callable for your own.
        width: For plain checkpoints: factor on hidden widths of dirprune's own models.
        data: For plain checkpoints: name of the data, as for train.
        batch_size: For plain checkpoints: images per batch when a curve is fitted.
        device: auto, cpu or cuda.
        trust_model: Build a model that a run names as module.path:callable, which runs its code.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> SurveyConfig(what="plane,curve", budget="10m").parts
        ('curve', 'plane')
    """

    what: str = "hessian,directional,curve,plane"
    samples: int = 4000
    test_samples: int = 0
    points: int = 61
    grid: int = 21
    margin: float = 0.2
    curve_epochs: int = 30
    bends: int = 1
    curve_lr: float = 0.1
    curve_momentum: float = 0.0
    eigenvectors: int = 10
    steps: int = 50
    probes: int = 2
    policy: Literal["refresh", "interpolate", "eval"] = "refresh"
    seed: int = 0
    budget: str | None = None
    model: str | None = None
    width: float = 1.0
    data: str = "digits"
    batch_size: int = 128
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_model: bool = False

    def __post_init__(self) -> None:
        """Check every range."""
        requested = self.what.split(",")
        if unknown := [part for part in requested if part not in PARTS]:
            hint = did_you_mean(unknown[0], PARTS)
            raise ValueError(f"unknown part {unknown[0]!r}: {hint}--what takes {','.join(PARTS)}")
        least = {"samples": 0, "test_samples": 0, "points": 3, "grid": 2, "curve_epochs": 1}
        least |= {"bends": 1, "eigenvectors": 1, "steps": 1, "probes": 1, "seed": 0}
        least |= {"batch_size": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {self.margin}")
        if not 0 < self.curve_lr < math.inf:
            raise ValueError(f"curve_lr must be positive and finite, got {self.curve_lr}")
        if not 0 <= self.curve_momentum < 1:
            raise ValueError(f"curve_momentum must lie in [0, 1), got {self.curve_momentum}")
        if self.budget is not None:
            parse_duration(self.budget)

    @property
    def parts(self) -> tuple[str, ...]:
        """The requested parts, in the order in which they are measured."""
        requested = self.what.split(",")
        return tuple(part for part in PARTS if part in requested)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration, a positive number followed by s, m or h.

    Raises:
        ValueError: If the text has another form.

    Example:
        >>> parse_duration("1.5h"), parse_duration("90s")
        (5400.0, 90.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smh])", text)
    if not found or not float(found[1]):
        raise ValueError(
            f"{text!r} is not a duration: write a number and a unit, such as 90s, 10m or 2h"
        )
    return float(found[1]) * _UNITS[found[2]]


def show_duration(seconds: float) -> str:
    """Format a duration.

    Example:
        >>> show_duration(4.2), show_duration(75), show_duration(5400)
        ('4.2 s', '1 min 15 s', '1 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
