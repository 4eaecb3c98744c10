"""Quotients rounded down, and what remains of a division.

A quotient of float32 numbers just below an integer may be rounded to this integer: 1.25 / 0.05 is
25, although 0.05 in float32 is a little more than 1/20. So the rest is computed without rounding,
and its sign tells whether the quotient was too large. This holds for quotients below 2^24.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments

_HALF = 1 << 12
"""Half the bits of a float32: products of halves are not rounded."""


def _halves(y: Term) -> tuple[Term, Term]:
    """A number as the sum of two with half the bits."""
    if isinstance(y.held, Constant):
        whole = y.held.tensor.float()
        high = (whole.view(torch.int32) & -_HALF).view(torch.float32)
        return Term(y.builder, Constant(high)), Term(y.builder, Constant(whole - high))
    scaled = y * (_HALF + 1.0)
    upper = scaled - (scaled - y)
    return upper, y - upper


def _has_few_bits(y: Term) -> bool:
    """Whether its multiples fit in a float32, so that no quotient is rounded up to an integer."""
    if not isinstance(y.held, Constant):
        return False
    low = _halves(y)[1].held.tensor
    return bool(((low == 0) | ~low.isfinite()).all())


def _divided(x: Term, y: Term) -> tuple[Term, Term]:
    """The quotient rounded to zero, perhaps 1 too far from it, and what remains."""
    quotient = (x / y).apply("trunc")
    upper = (quotient * (1 / _HALF)).apply("trunc") * _HALF
    lower = quotient - upper
    high, low = _halves(y)
    return quotient, x - upper * high - upper * low - lower * high - lower * low


def _floor(x: Term, divisor: object, is_exact: bool) -> Term:
    if is_exact:
        return (x / divisor).apply("floor")
    y = Term(x.builder, divisor)
    quotient, rest = _divided(x, y)
    return quotient - (rest * y.apply("sign") < 0)


def _remainder(x: Term, divisor: object, is_exact: bool) -> Term:
    """What remains has the sign of y."""
    if is_exact:
        return x - (x / divisor).apply("floor") * divisor
    y = Term(x.builder, divisor)
    rest = _divided(x, y)[1]
    return (rest * y.apply("sign") < 0).where(rest + y, rest)


def _remainder_of_truncated(x: Term, divisor: object, is_exact: bool) -> Term:
    """What remains has the sign of x."""
    if is_exact:
        return x - (x / divisor).apply("trunc") * divisor
    y = Term(x.builder, divisor)
    rest, sign = _divided(x, y)[1], x.apply("sign")
    return (rest * sign < 0).where(rest + y.apply("abs") * sign, rest)


def _capture(function: Callable[[Term, object, bool], Term]) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        is_exact = b.is_whole or _has_few_bits(Term(b, a.other))
        return function(Term(b, a.self), a.other, is_exact).held

    return capture


capture_floor = _capture(_floor)

DIVISION: dict[str, Callable[..., Any]] = {
    "floor_divide": capture_floor,
    "remainder": _capture(_remainder),
    "fmod": _capture(_remainder_of_truncated),
}
"""The ATen operators that are written with operators of a graph, and have no record."""
