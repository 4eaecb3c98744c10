"""Functions of single elements that a graph writes with its operators, and scans."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.traced_sizes import is_finite, real
from dirprune.deploy.graph.values import Constant, Value

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments


_ARITHMETIC = ("add", "sub", "mul", "div")  # these take a number as an attribute


class Term:
    """A value, constant or number in a formula, which is written as nodes.

    Args:
        builder: The graph.
        held: The value, constant or number.
    """

    def __init__(self, builder: "Builder", held: Any) -> None:
        self.builder, self.held = builder, builder.operand(held)

    def binary(self, op: str, other: Any, reverse: bool = False) -> "Term":
        """Combine with another term or number."""
        if op in _ARITHMETIC and isinstance(self.held, Value) and is_finite(other):
            is_turned = reverse and op in ("sub", "div")
            attrs = {"scalar": real(other)} | ({"reversed": 1} if is_turned else {})
            return Term(self.builder, self.builder.add(op, [self.held], attrs))
        right = other.held if isinstance(other, Term) else self.builder.operand(other)
        pair = [right, self.held] if reverse else [self.held, right]
        return Term(self.builder, self.builder.combine(op, pair))

    def apply(self, op: str) -> "Term":
        """Apply a function without attributes, whose name is that of torch."""
        if isinstance(self.held, Constant):
            return Term(self.builder, Constant(getattr(torch, op)(self.held.tensor)))
        return Term(self.builder, self.builder.add(op, [self.held]))

    def where(self, yes: Any, no: Any) -> "Term":
        """Choose ``yes`` where the term is not 0, otherwise ``no``."""
        parts = [x.held if isinstance(x, Term) else self.builder.operand(x) for x in (yes, no)]
        return Term(self.builder, self.builder.combine("where", [self.held, *parts]))

    def __add__(self, other: Any) -> "Term":
        return self.binary("add", other)

    def __sub__(self, other: Any) -> "Term":
        return self.binary("sub", other)

    def __mul__(self, other: Any) -> "Term":
        return self.binary("mul", other)

    def __rmul__(self, other: Any) -> "Term":
        return self.binary("mul", other, reverse=True)

    def __truediv__(self, other: Any) -> "Term":
        return self.binary("div", other)

    def __radd__(self, other: Any) -> "Term":
        return self.binary("add", other, reverse=True)

    def __rsub__(self, other: Any) -> "Term":
        return self.binary("sub", other, reverse=True)

    def __rtruediv__(self, other: Any) -> "Term":
        return self.binary("div", other, reverse=True)

    def __lt__(self, other: Any) -> "Term":
        return self.binary("lt", other)

    def __gt__(self, other: Any) -> "Term":
        return self.binary("gt", other)

    def __ge__(self, other: Any) -> "Term":
        return self.binary("ge", other)

    def __le__(self, other: Any) -> "Term":
        return self.binary("le", other)


_LARGE = 1e5
"""From here on log(x + sqrt(x^2 +- 1)) is log(2 x) in float32."""


def _arcsine(x: Term) -> Term:
    return (x / ((1 - x) * (1 + x)).apply("sqrt")).apply("atan")


def _inverse_hyperbolic_sine(x: Term) -> Term:
    a = x.apply("abs")
    near = (a + a * a / (1 + (1 + a * a).apply("sqrt"))).apply("log1p")
    return x.apply("sign") * (a > _LARGE).where(a.apply("log") + math.log(2), near)


def _inverse_hyperbolic_cosine(x: Term) -> Term:
    above = x - 1
    near = (above + (above * (above + 2)).apply("sqrt")).apply("log1p")
    return (x > _LARGE).where(x.apply("log") + math.log(2), near)


def _negative(x: Term) -> Term:
    """Whether the sign is -: that of -0 shows in its inverse."""
    return (x < 0).binary("maximum", 1 / x < 0)


def _arctangent_of_two(y: Term, x: Term) -> Term:
    """The angle of (x, y): atan(y / x), moved by pi where x < 0."""
    left = _negative(y).where(-math.pi, math.pi)
    at_origin = _negative(x).where(left, y)
    above = y.binary("eq", 0).where(at_origin, y.apply("sign") * (math.pi / 2))
    ratio = (y / x).apply("atan")
    return (x > 0).where(ratio, (x < 0).where(ratio + left, above))


def _larger(x: Term, y: Term) -> Term:
    """The larger element, or the one that is not NaN."""
    return x.binary("ne", x).where(y, y.binary("ne", y).where(x, x.binary("maximum", y)))


def _smaller(x: Term, y: Term) -> Term:
    return x.binary("ne", x).where(y, y.binary("ne", y).where(x, x.binary("minimum", y)))


def _with_sign(x: Term, y: Term) -> Term:
    return x.apply("abs") * _negative(y).where(-1.0, 1.0)


def _hypotenuse(x: Term, y: Term) -> Term:
    """sqrt(x^2 + y^2); the squares themselves may be too large or too small."""
    x, y = x.apply("abs"), y.apply("abs")
    larger = x.binary("maximum", y)
    ratio = x.binary("minimum", y) / larger
    is_end = larger.binary("eq", 2 * larger)  # 0 or infinite
    return is_end.where(larger, larger * (1 + ratio * ratio).apply("sqrt"))


_FUNCTIONS: dict[str, Callable[[Term], Term]] = {
    "tan": lambda x: x.apply("sin") / x.apply("cos"),
    "asin": _arcsine,
    "acos": lambda x: math.pi / 2 - _arcsine(x),
    "sinh": lambda x: (x.apply("expm1") - (0 - x).apply("expm1")) / 2,
    "cosh": lambda x: (x.apply("exp") + (0 - x).apply("exp")) / 2,
    "asinh": _inverse_hyperbolic_sine,
    "acosh": _inverse_hyperbolic_cosine,
    "atanh": lambda x: (2 * x / (1 - x)).apply("log1p") / 2,
    "erfc": lambda x: 1 - x.apply("erf"),
    "signbit": _negative,
    "isinf": lambda x: x.apply("abs").binary("eq", math.inf),
}

_PAIRS: dict[str, Callable[[Term, Term], Term]] = {
    "atan2": _arctangent_of_two,
    "hypot": _hypotenuse,
    "fmax": _larger,
    "fmin": _smaller,
    "copysign": _with_sign,
}


def _capture_function(function: Callable[[Term], Term]) -> Callable[..., Any]:
    return lambda b, a, results: function(Term(b, a.self)).held


def _capture_pair(function: Callable[[Term, Term], Term]) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        return function(Term(b, a.self), Term(b, a.other)).held

    return capture


# ---- scans


def _scan(function: Callable[[Term, Term], Term], neutral: float) -> Callable[..., Any]:
    """Combine every element with all before it, in log2(size) steps.

    After a step every element has combined twice as many elements as before.
    """

    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        x, sizes = a.self, b.sizes(a.self)
        dim = a.dim % len(sizes)
        b.axis(x, dim)
        step = 1
        while step < sizes[dim]:
            start = b.filled(neutral, (*sizes[:dim], step, *sizes[dim + 1 :]))
            before = b.join([start, b.take(x, dim, 0, sizes[dim] - step)], dim, sizes)
            x = function(Term(b, before), Term(b, x)).held
            step *= 2
        return x

    return capture


def _log_sum(x: Term, y: Term) -> Term:
    """log(exp(x) + exp(y))."""
    largest = x.binary("maximum", y)
    apart = (x - y).apply("abs")
    apart = apart.binary("ne", apart).where(0.0, apart)  # of two infinities
    return largest + (0 - apart).apply("exp").apply("log1p")


def _first_only(capture: Callable[..., Any]) -> Callable[..., Any]:
    return lambda b, a, results: [capture(b, a, results), None]


# ---- places among boundaries


def _capture_search(values: str, boundaries: str) -> Callable[..., Any]:
    """Count the sorted boundaries below each value; all of them are below NaN."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        x, sorted_ones = getattr(a, values), getattr(a, boundaries)
        if getattr(a, "sorter", None) is not None:
            raise ValueError("it has a sorter")
        right = a.right or getattr(a, "side", None) == "right"
        own, count = b.sizes(sorted_ones), b.sizes(sorted_ones)[-1]
        wide = own[:-1] + ((1, count) if len(own) > 1 else (count,))
        above = b.combine("gt" if right else "ge", [
            b.reshape(sorted_ones, wide), b.reshape(x, (*b.sizes(x), 1)),
        ])  # fmt: skip
        return (count - Term(b, b.reduce("sum", above, -1, False))).held

    return capture


def _capture_rrelu(b: "Builder", a: "Arguments", results: Any) -> Any:
    if getattr(a, "training", False):
        raise ValueError("it draws at random, in evaluation mode too")
    return b.add("leaky_relu", [a.self], {"slope": (a.lower + a.upper) / 2})


COMPOSED: dict[str, Callable[..., Any]] = {
    **{name: _capture_function(function) for name, function in _FUNCTIONS.items()},
    **{name: _capture_pair(function) for name, function in _PAIRS.items()},
    "cumprod": _scan(lambda x, y: x * y, 1.0),
    "cummax": _first_only(_scan(lambda x, y: x.binary("maximum", y), -math.inf)),
    "cummin": _first_only(_scan(lambda x, y: x.binary("minimum", y), math.inf)),
    "logcumsumexp": _scan(_log_sum, -math.inf),
    "searchsorted": _capture_search("self", "sorted_sequence"),
    "bucketize": _capture_search("self", "boundaries"),
    "rrelu": _capture_rrelu,
}
"""The ATen operators that are written with operators of a graph, and have no record."""
