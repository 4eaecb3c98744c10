"""Access to the optional C++ extension. Without it, PyTorch does everything except the engine.

This module does not import torch, so that the engine works without torch.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

EXTENSION = "dirprune._cpp"


class ExtensionMissing(ImportError, RuntimeError):
    """The C++ extension is needed and was not built."""


class Sample(Protocol):
    """The part of long arrays that is compared, and digests of what the last step left in it.

    Without digests, w is compared with T(v).
    """

    def forget(self) -> None:
        """Discard the digests, because something else has written w or v."""


class FusedStep(Protocol):
    """One pass over all tensors of a batch: momentum and decay, v -= lr * d, then w = T(v)."""

    def __call__(
        self,
        w: Sequence[int],
        v: Sequence[int],
        d: Sequence[int],
        m: Sequence[int],
        lengths: Sequence[int],
        *,
        lr: float,
        g: float,
        momentum: float,
        decay: float,
        nesterov: bool,
        maximize: bool,
        root: bool,
        threads: int,
        g_before: float | None = None,
        sample: Sample | None = None,
    ) -> list[int]:
        """Update ``w``, ``v`` and ``m`` (empty without momentum) in place.

        All are addresses of float32 arrays of the given lengths, in the same order. T is the soft
        threshold or, with ``root``, the threshold function of power 2. Without ``d``, v does not
        change. With ``g_before``, the threshold of the last step, arrays whose w was changed since
        are not stepped, and their indices are returned. ``sample`` is prepared for the next step.
        """


class ChangeSearch(Protocol):
    """Compare weights with those that the last step left; long arrays on a sample."""

    def __call__(
        self,
        w: Sequence[int],
        v: Sequence[int],
        lengths: Sequence[int],
        *,
        g: float,
        root: bool,
        sample: Sample,
        threads: int,
    ) -> list[int]:
        """Return the indices of the arrays that differ."""


@cache
def extension() -> ModuleType | None:
    """Return the C++ extension, or None if it was not built."""
    try:
        return import_module(EXTENSION)
    except ModuleNotFoundError as error:
        if error.name != EXTENSION:  # a broken build must not be hidden
            raise
        return None


def required_extension() -> ModuleType:
    """Return the C++ extension.

    Raises:
        ExtensionMissing: If it was not built.
    """
    found = extension()
    if found is None:
        raise ExtensionMissing(
            "Engine needs dirprune's C++ extension, which this installation lacks: install a "
            "C++20 compiler (at least GCC 11 or Clang 14), then pip install --force-reinstall "
            "--no-deps --no-cache-dir dirprune"
        )
    return found


def grda_step() -> FusedStep | None:
    """Return the extension's fused step, or None if the extension was not built."""
    native = extension()
    return None if native is None else cast(FusedStep, native.grda_step)


def grda_changed() -> ChangeSearch | None:
    """Return the extension's search for changed weights, or None if it was not built."""
    native = extension()
    return None if native is None else cast(ChangeSearch, native.grda_changed)


def sample(phase: int = 0) -> Sample:
    """Return a sample without digests.

    Args:
        phase: Selects the part; 64 successive phases cover the arrays.
    """
    return cast(Sample, required_extension().Sample(phase))
