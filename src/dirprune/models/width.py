"""The width factor of dirprune's own networks."""


def scaled(hidden: int, width: float) -> int:
    """Scale a hidden width, to at least 1.

    Args:
        hidden: Units or channels at width 1.
        width: Positive factor.

    Returns:
        The nearest whole number.

    Example:
        >>> scaled(64, 0.25), scaled(64, 0.001)
        (16, 1)
    """
    return max(1, round(hidden * width))
