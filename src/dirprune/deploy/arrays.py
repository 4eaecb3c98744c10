"""Inputs of an engine as arrays of numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def as_array(x: Any) -> NDArray[Any]:
    """Anything with an array interface that the CPU can read, without a copy.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "resolve_neg"):  # torch's: what its array interfaces refuse or get wrong
        x = x.detach().resolve_conj().resolve_neg()
        if x.is_floating_point():
            x = x.float()
    try:
        if hasattr(x, "__dlpack__"):
            return np.from_dlpack(x)
        if hasattr(x, "__array__"):
            return np.asarray(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(
            f"cannot read the input's memory ({reason}): give a dense array on the CPU"
        ) from None
    raise TypeError(f"the input must be an array, got {type(x).__name__}: use numpy.asarray(x)")


def as_float32(array: NDArray[Any]) -> Array:
    """Convert real numbers.

    Raises:
        TypeError: If it holds something else.
    """
    if array.dtype.kind in "fiubV" and array.dtype.names is None:
        try:
            with np.errstate(over="ignore"):
                return array.astype(np.float32)
        except (TypeError, ValueError):
            pass
    raise TypeError(
        f"the engine computes with real numbers, got {array.dtype}: use x.astype(numpy.float32)"
    )


def check_integers(array: NDArray[Any]) -> None:
    """Refuse integers that float32 rounds: a rounded user id is the id of another user.

    Raises:
        ValueError: If there is one.
    """
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 4:
        return
    rounded = array[array.astype(np.float32).astype(np.float64) != array]
    if rounded.size:
        raise ValueError(
            f"the engine computes in float32, which rounds the integer {rounded[0]} of the input: "
            "integers are exact up to 16,777,216. Hash larger ones, or subtract an offset, before "
            "the call"
        )
