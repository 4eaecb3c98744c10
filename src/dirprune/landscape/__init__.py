"""The loss around trained networks: points, curves, planes and curvature, of any module.

Importing this loads nothing; each public name loads its own module on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dirprune.landscape.data import FrozenData as FrozenData
    from dirprune.landscape.objective import Measured as Measured
    from dirprune.landscape.objective import Objective as Objective
    from dirprune.landscape.points import Layout as Layout
    from dirprune.landscape.points import Point as Point

_HOME = {
    # what a landscape is of
    "Layout": "dirprune.landscape.points",
    "Point": "dirprune.landscape.points",
    "FrozenData": "dirprune.landscape.data",
    "Objective": "dirprune.landscape.objective",
    "Measured": "dirprune.landscape.objective",
}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'dirprune.landscape' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
