"""Complex values: pairs of a real and an imaginary part."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dirprune.deploy.graph.values import Value

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder


class Pairs(NamedTuple):
    """A complex tensor.

    Attributes:
        real: The real part.
        imaginary: The imaginary part; None for 0.
    """

    real: Value
    imaginary: Value | None


def each(x: Pairs, function: Callable[[Value], Value]) -> Pairs:
    """Apply a linear function to both parts."""
    return Pairs(function(x.real), None if x.imaginary is None else function(x.imaginary))


def conjugated(b: "Builder", x: Pairs) -> Pairs:
    """Negate the imaginary part."""
    return Pairs(x.real, None if x.imaginary is None else b.multiplied(x.imaginary, -1))


def multiplied(
    b: "Builder", product: Callable[[Any, Any], Any], x: tuple[Any, Any], y: tuple[Any, Any]
) -> Pairs:
    r"""Multiply complex values by a bilinear product of real ones.

    .. math:: (p + iq)(r + is) = pr - qs + i(ps + qr)

    Args:
        b: The graph.
        product: Of two real values, such as an elementwise or a matrix product.
        x: Real and imaginary part of the first factor; None for an imaginary part that is 0.
        y: Those of the second factor.
    """
    (p, q), (r, s) = x, y
    if q is None or s is None:
        other = None if q is s else product(q, r) if s is None else product(p, s)
        return Pairs(product(p, r), other)
    real = b.combine("sub", [product(p, r), product(q, s)])
    return Pairs(real, b.combine("add", [product(p, s), product(q, r)]))
