"""The seam to the optional C++ extension; where it is not built, PyTorch does everything."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from torch import Tensor


class FusedStep(Protocol):
    """One pass over all tensors of a batch: v -= lr * d, then w = soft_threshold(v, g)."""

    def __call__(
        self,
        v: Sequence[Tensor],
        w: Sequence[Tensor],
        d: Sequence[Tensor],
        lr: float,
        g: float,
    ) -> None:
        """Update ``v`` and ``w`` in place; float32, contiguous, on the CPU."""


@cache
def grda_step() -> FusedStep | None:
    """Return the extension's fused step, or None where the extension was not built."""
    try:
        extension = import_module("dirprune._cpp")
    except ModuleNotFoundError:  # any other ImportError is a broken build, which must be seen
        return None
    return cast(FusedStep, extension.grda_step)
