"""The width factor of dirprune's own networks."""


def scaled(hidden: int, width: float) -> int:
    """Scale a hidden width to the nearest whole number, at least 1.

    Example:
        >>> scaled(64, 0.25), scaled(64, 0.001)
        (16, 1)
    """
    return max(1, round(hidden * width))
