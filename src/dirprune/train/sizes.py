"""Sizes of files: what people write, and what a share of zeros comes to."""

import math
import re

_UNITS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

VALUE_BYTES = 3.7
"""Bytes of a trained float32 weight after zstandard, which finds order in the exponents only."""
MASK_OVERHEAD = 1.9
"""What zstandard spends on where the zeros are, over the entropy of a random mask."""


def parse_size(text: str) -> int:
    """Read a size in bytes.

    Args:
        text: A number and B, kB, MB, GB (powers of 1000), KiB, MiB or GiB (powers of 1024).

    Returns:
        At least 1 byte.

    Raises:
        ValueError: If it is not of this form.

    Example:
        >>> parse_size("1.5MB"), parse_size("2 KiB")
        (1500000, 2048)
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)", text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    size = round(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise ValueError(
            f"a size must be a positive number with its unit, such as 2MB or 500kB, got {text!r}"
        )
    return size


def estimated_size(total: int, density: float) -> float:
    r"""Estimate how large float32 weights are after zstandard.

    .. math:: B = N \left( 3.7\,d + 1.9\,H(d) / 8 \right), \qquad
        H(d) = -d \log_2 d - (1 - d) \log_2 (1 - d)

    For weights trained by gRDA within -4 and +8 % of their size at level 9 while at least 2 % of
    them are left; zeros spread at random, as no training leaves them, take up to 15 % more.

    Args:
        total: Number N of weights.
        density: Share d of weights that are not zero, in [0, 1].

    Returns:
        Bytes.

    Example:
        >>> round(estimated_size(1000, 0.1))
        481
    """
    shares = (share for share in (density, 1 - density) if share > 0)
    entropy = -sum(share * math.log2(share) for share in shares)
    return total * (VALUE_BYTES * density + MASK_OVERHEAD * entropy / 8)


def sparsity_for_size(size: int, total: int) -> float:
    """Return the share of zeros at which weights are as large as wanted after zstandard.

    The inverse of :func:`estimated_size`.

    Args:
        size: Bytes.
        total: Number of weights.

    Returns:
        In (0, 1).

    Raises:
        ValueError: If the weights are that small without any zeros, or all would have to be zero.

    Example:
        >>> round(sparsity_for_size(481, 1000), 3)
        0.9
    """
    smallest, largest = estimated_size(total, 1 / total), estimated_size(total, 1.0)
    if not smallest <= size < largest:
        raise ValueError(
            f"{total:,} parameters cannot be brought to {size:,} bytes: give a target_size "
            f"between {math.ceil(smallest):,} and {math.floor(largest):,} bytes"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if estimated_size(total, middle) < size else (low, middle)
    return 1 - low
