"""Formatting of numbers, with the same rounding on all pages."""

import math

Number = float | None  # None: not measured; NaN and infinity are measured values

MISSING = "–"
NOT_FINITE = "not finite"


def finite(value: Number, scale: float = 1.0) -> Number:
    """Return the scaled value, or None, which plotly draws as a gap."""
    return None if value is None or not math.isfinite(value) else scale * value


def percent(value: Number) -> str:
    r"""Format a share in [0, 1].

    Example:
        >>> percent(0.9187), percent(None)
        ('91.9\xa0%', '–')
    """
    return MISSING if value is None else f"{fixed(100 * value, 1)}\N{NO-BREAK SPACE}%"


def fixed(value: float, digits: int) -> str:
    """Format with a fixed number of decimals and separated thousands."""
    return f"{value:,.{digits}f}".replace("-", "−") if math.isfinite(value) else _special(value)


def significant(value: float) -> str:
    """Format with four significant digits."""
    return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else _special(value)


def brief(value: Number) -> str:
    """Format with three significant digits.

    Example:
        >>> brief(0.000012345), brief(1234.5), brief(None)
        ('1.23e−5', '1230', 'not finite')
    """
    if value is None or not math.isfinite(value):
        return NOT_FINITE
    text = f"{value:.3g}"
    if "e" in text and 1e3 <= abs(value) < 1e6:
        text = f"{float(text):.0f}"
    mantissa, e, power = text.partition("e")
    return f"{mantissa}{e}{int(power)}".replace("-", "−") if e else text.replace("-", "−")


def signed(points: float) -> str:
    """Format a difference in percentage points.

    Example:
        >>> signed(1.5), signed(-0.001)
        ('+1.50', '±0.00')
    """
    return f"{points:+.2f}".replace("-", "−") if round(points, 2) else "±0.00"


def times(ratio: float) -> str:
    """Format a ratio.

    Example:
        >>> times(13.41), times(1.52)
        ('13×', '1.5×')
    """
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def short_name(name: str) -> str:
    """Shorten a parameter's name so that the figure has room on a phone."""
    name = name.removesuffix(".weight")
    return name if len(name) <= 22 else f"…{name[-21:]}"


def _special(value: float) -> str:
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
