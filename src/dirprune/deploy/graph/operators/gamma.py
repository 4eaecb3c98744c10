"""The logarithm of the gamma function and its derivative, from Stirling's series.

The series needs large arguments: recurrences move small positive ones by ``_SHIFT``, and
reflections make negative ones positive. Source: Abramowitz & Stegun, 6.1.15-17, 6.1.41, 6.3.5-7
and 6.3.18.
"""

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments

_SHIFT = 7


def _log_gamma(x: Term) -> Term:
    """Log |gamma(x)|, for x > 0."""
    product = reduce(Term.__mul__, (x + i for i in range(_SHIFT)))
    small = x < _SHIFT
    z = small.where(x + _SHIFT, x)
    inverse = 1 / z
    series = inverse * (1 / 12 - inverse * inverse * (1 / 360))
    large = (z - 0.5) * z.apply("log") - z + 0.5 * math.log(2 * math.pi) + series
    return small.where(large - product.apply("log"), large)


def _digamma(x: Term) -> Term:
    """The derivative of log(gamma(x)), for x > 0."""
    moved = reduce(Term.__add__, (1 / (x + i) for i in range(_SHIFT)))
    small = x < _SHIFT
    z = small.where(x + _SHIFT, x)
    inverse = 1 / (z * z)
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252)))
    large = z.apply("log") - 0.5 / z - series
    return small.where(large - moved, large)


def _capture_log_gamma(b: "Builder", a: "Arguments", results: Any) -> Any:
    x = Term(b, a.self)
    positive = x > 0
    sine = (math.pi * (x - x.apply("floor"))).apply("sin").apply("abs")
    found = _log_gamma(positive.where(x, 1 - x))
    return positive.where(found, (math.pi / sine).apply("log") - found).held


def _capture_digamma(b: "Builder", a: "Arguments", results: Any) -> Any:
    x = Term(b, a.self)
    positive = x > 0
    angle = math.pi * (x - x.apply("floor"))
    found = _digamma(positive.where(x, 1 - x))
    return positive.where(found, found - math.pi * angle.apply("cos") / angle.apply("sin")).held


GAMMA = {"lgamma": _capture_log_gamma, "digamma": _capture_digamma}
"""The ATen operators of the gamma function, by name."""
