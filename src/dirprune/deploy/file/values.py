"""Fewer bits for the values of weights: float16, or int8 with a scale for each output channel."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Values = Literal["float32", "float16", "int8"]
VALUES: tuple[Values, ...] = get_args(Values)


class ReducedValues(NamedTuple):
    """An array as it is stored.

    Attributes:
        values: As it is (``float32``, for any type), as float16, or as int8.
        array: The stored elements, with the shape of the original.
        scale: float32 for each output channel, for int8.
    """

    values: Values
    array: NDArray[np.generic]
    scale: NDArray[np.float32] | None = None


def reduce(array: NDArray[np.generic], values: Values) -> ReducedValues:
    r"""Round weights to fewer bits.

    With 8 bits, :math:`q_{oi} = \operatorname{round}(w_{oi} / s_o)` where
    :math:`s_o = \max_i |w_{oi}| / 127`. Zeros stay zeros. Vectors, tensors of other types, and
    tensors with a number that float16 or the scale cannot represent are returned unchanged.

    Args:
        array: A tensor whose first dimension is the output channels.
        values: The type to round to.

    Returns:
        The array to store.

    Example:
        >>> reduce(np.array([[1.0, 0.0, -0.5]], np.float32), "int8").array
        array([[127,   0, -64]], dtype=int8)
    """
    if values == "float32" or array.dtype != np.float32 or array.ndim < 2 or not array.size:
        return ReducedValues("float32", array)
    weights = array.astype(np.float32, copy=False)
    if values == "float16":
        with np.errstate(over="ignore"):
            half = weights.astype(np.float16)
        if not np.isfinite(half).all():
            return ReducedValues("float32", array)
        half[half == 0] = 0  # the sign of a zero would cost a bit
        return ReducedValues("float16", half)
    if not np.abs(weights).max() < 1e38:  # so that 127 scales do not overflow; no NaN passes
        return ReducedValues("float32", array)
    rows = weights.reshape(len(weights), -1)
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    # A scale below the normal numbers is rounded so much that 127 of it may be too few.
    quotients = np.clip(np.rint(rows / np.where(scale, scale, 1)[:, None]), -127, 127)
    return ReducedValues("int8", quotients.astype(np.int8).reshape(weights.shape), scale)


def restore(reduced: ReducedValues) -> NDArray[np.generic]:
    """Undo :func:`reduce`: return float32 values, or the array itself."""
    if reduced.values == "float32":
        return reduced.array
    weights = reduced.array.astype(np.float32)
    if reduced.scale is not None:
        with np.errstate(all="ignore"):  # scales of a damaged file
            weights *= reduced.scale.reshape(-1, *(1,) * (weights.ndim - 1))
            weights[reduced.array == 0] = 0
    return weights
