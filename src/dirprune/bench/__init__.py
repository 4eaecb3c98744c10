"""Latency of a network in dirprune and in other runtimes."""

from typing import TYPE_CHECKING

from dirprune._support.lazy import lazy

if TYPE_CHECKING:
    from dirprune.bench.latency import benchmark as benchmark

_HOME = {"benchmark": "dirprune.bench.latency"}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
