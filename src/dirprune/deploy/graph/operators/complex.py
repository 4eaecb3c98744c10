"""Complex numbers, as in rotary position codes and Fourier transforms: pairs of real values."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term
from dirprune.deploy.graph.operators.fourier import (
    complex_to_complex,
    complex_to_real,
    real_to_complex,
)
from dirprune.deploy.graph.operators.pairs import Pairs, conjugated, multiplied
from dirprune.deploy.graph.traced_sizes import is_number
from dirprune.deploy.graph.values import Constant, Value

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments

Capture = Callable[["Builder", "Arguments", Any], Any]

NOT_COMPLEX = (
    "a graph has no operator for this on complex numbers: write it with the real and the "
    "imaginary part"
)
RETURNED = "it returns complex numbers: return torch.view_as_real of them"

_LINEAR = (
    "add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "where", "zeros", "zeros_like",
    "new_zeros", "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze",
    "unsqueeze", "view_as", "reshape_as", "_reshape_alias", "contiguous", "clone", "detach",
    "alias", "lift_fresh_copy", "permute", "transpose", "swapaxes", "t", "expand", "expand_as",
    "repeat", "roll", "flip", "cat", "concat", "stack", "slice", "narrow", "select", "unbind",
    "chunk", "split", "split_with_sizes", "tensor_split", "index", "index_select", "gather",
    "diagonal", "unfold", "slice_scatter", "select_scatter", "index_put", "constant_pad_nd", "pad",
    "copy", "fill", "full", "full_like", "new_full",
)  # fmt: skip
"""Operators that act in the same way on the real and on the imaginary part."""
_PRODUCTS = ("mul", "matmul", "bmm", "mm", "mv", "dot", "linear")
_WHOLE = range(-8, 9)
"""The exponents that are written as products."""
_OPERANDS = ("self", "other", "tensors", "src", "value", "values", "fill_value")
"""Arguments of these operators that may be complex."""


def _parts(x: Any) -> tuple[Any, Any]:
    """The real and the imaginary part of what is given; None for 0."""
    if isinstance(x, Pairs):
        return x
    if isinstance(x, Constant) and x.tensor.is_complex():
        tensor = x.tensor.resolve_conj()
        return Constant(tensor.real.contiguous()), Constant(tensor.imag.contiguous())
    return (x.real, x.imag) if isinstance(x, complex) else (x, None)


def is_complex(x: Any) -> bool:
    """Whether a value or constant is complex."""
    return isinstance(x, Pairs) or (isinstance(x, Constant) and x.tensor.is_complex())


def both_parts(b: "Builder", x: Any) -> tuple[Value, Value]:
    """The parts as values."""
    real, imaginary = _parts(x)
    real = b.as_value(b.operand(real))
    if imaginary is None:
        imaginary = b.filled(0.0, b.sizes(real))
    return real, b.as_value(b.operand(imaginary))


def _linear(real: Capture) -> Capture:
    def part(b: "Builder", x: Any, place: int) -> Any:
        if isinstance(x, list):
            return [part(b, own, place) for own in x]
        if not (isinstance(x, Value | Pairs | Constant | complex) or is_number(x)):
            return x
        found = _parts(x)[place]
        if found is None:
            found = 0.0 if is_number(x) else b.filled(0.0, b.sizes(_parts(x)[0]))
        return found

    def run(b: "Builder", a: "Arguments", results: Any, place: int) -> Any:
        own = {k: part(b, v, place) if k in _OPERANDS else v for k, v in vars(a).items()}
        return real(b, SimpleNamespace(**own), results)

    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        given = [getattr(a, key, None) for key in _OPERANDS]
        operands = [x for own in given for x in (own if isinstance(own, list) else [own])]
        first = run(b, a, results, 0)
        is_real = all(_parts(x)[1] is None for x in operands)
        second: Any = None if is_real else run(b, a, results, 1)
        if not isinstance(first, list):
            return Pairs(b.as_value(first), None if second is None else b.as_value(second))
        parts = [second[i] if second else None for i in range(len(first))]
        return [Pairs(x, y) for x, y in zip(first, parts)]

    return capture


def _product(real: Capture) -> Capture:
    def capture(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        left, right = [key for key in vars(a) if key != "bias"][:2]

        def product(x: Any, y: Any) -> Any:
            own: dict[str, Any] = {**vars(a), left: x, right: y}
            if "bias" in own:
                own["bias"] = None
            return real(b, SimpleNamespace(**own), results)

        found = multiplied(b, product, _parts(getattr(a, left)), _parts(getattr(a, right)))
        if getattr(a, "bias", None) is None:
            return found
        parts = zip(both_parts(b, found), _parts(a.bias))
        return Pairs(*(x if y is None else b.combine("add", [x, y]) for x, y in parts))

    return capture


def _divided(mul: Capture, div: Capture) -> Capture:
    def capture(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        r, s = _parts(a.other)
        if s is None:
            parts = (
                div(b, SimpleNamespace(self=x, other=r), results) for x in both_parts(b, a.self)
            )
            return Pairs(*parts)
        inverse = _inverse(b, a.other)
        product: Pairs = _product(mul)(b, SimpleNamespace(self=a.self, other=inverse), results)
        return product

    return capture


def _inverse(b: "Builder", x: Any) -> Pairs:
    p, q = _terms(b, x)
    size = p * p + q * q
    return Pairs((p / size).held, (-1.0 * q / size).held)


def _terms(b: "Builder", x: Any) -> tuple[Term, Term]:
    real, imaginary = both_parts(b, x)
    return Term(b, real), Term(b, imaginary)


def _power(b: "Builder", x: Any, exponent: int) -> Pairs:
    """A power, not the zeroth, as products."""
    result = factor = Pairs(*both_parts(b, x)) if exponent > 0 else _inverse(b, x)
    for _ in range(abs(exponent) - 1):
        result = multiplied(b, _multiply(b), result, factor)
    return result


def _multiply(b: "Builder") -> Callable[[Any, Any], Any]:
    return lambda x, y: b.combine("mul", [b.operand(x), b.operand(y)])


def _exponential(b: "Builder", x: Any) -> Pairs:
    p, q = _terms(b, x)
    return Pairs((p.apply("exp") * q.apply("cos")).held, (p.apply("exp") * q.apply("sin")).held)


def _capture_polar(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    length, angle = (Term(b, b.as_value(x)) for x in (a.abs, a.angle))
    parts = ((length * angle.apply(op)).held for op in ("cos", "sin"))
    return Pairs(*(b.expand(x, results[0]) for x in parts))


def _capture_complex(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    return Pairs(*(b.expand(b.as_value(x), results[0]) for x in (a.real, a.imag)))


def _capture_cast(b: "Builder", a: "Arguments", results: Any) -> Any:
    if isinstance(a.self, Pairs):
        return a.self if a.dtype is None or a.dtype.is_complex else a.self.real
    return Pairs(b.as_value(a.self), None)


def _capture_as_complex(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    parts = (b.take(a.self, -1, place, place + 1) for place in (0, 1))
    return Pairs(*(b.reshape(x, results[0]) for x in parts))


def _capture_as_real(b: "Builder", a: "Arguments", results: Any) -> Value:
    parts = both_parts(b, a.self)
    ones = [b.reshape(x, (*results[0][:-1], 1)) for x in parts]
    y = b.join(ones, len(results[0]) - 1, results[0])
    b.parts[y] = parts
    return y


def complex_operators(real: Mapping[str, Capture]) -> dict[str, Capture]:
    """Return the ATen operators on complex tensors by name, made from those on real tensors."""

    def of_parts(name: str) -> Capture:
        def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
            p, q = both_parts(b, a.self)
            return real[name](b, SimpleNamespace(self=q, other=p), results)

        return capture

    def polar(b: "Builder", a: "Arguments", results: Any) -> tuple[Term, Term]:
        length, angle = (of_parts(name)(b, a, results) for name in ("hypot", "atan2"))
        return Term(b, length), Term(b, angle)

    def logarithm(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        length, angle = polar(b, a, results)
        return Pairs(length.apply("log").held, angle.held)

    def power(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        if isinstance(a.exponent, int | float) and a.exponent in _WHOLE:
            return _power(b, a.self, int(a.exponent)) if a.exponent else ones(b, a, results)
        z = multiplied(b, _multiply(b), logarithm(b, a, results), _parts(a.exponent))
        return _exponential(b, z)

    def root(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        length, angle = polar(b, a, results)
        size, half = length.apply("sqrt"), angle * 0.5
        return Pairs((size * half.apply("cos")).held, (size * half.apply("sin")).held)

    def ones(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        return Pairs(b.filled(1.0, results[0]), None)

    def conjugate(b: "Builder", a: "Arguments", results: Any) -> Pairs:
        return conjugated(b, a.self)

    return {
        **{name: _linear(real[name]) for name in _LINEAR},
        **{name: _product(real[name]) for name in _PRODUCTS},
        **dict.fromkeys(("div", "true_divide"), _divided(real["mul"], real["div"])),
        **dict.fromkeys(("_conj", "conj", "conj_physical", "_conj_physical"), conjugate),
        **dict.fromkeys(("resolve_conj", "resolve_neg"), lambda b, a, results: a.self),
        **dict.fromkeys(("_to_copy", "to"), _capture_cast),
        "_fft_r2c": real_to_complex,
        "_fft_c2c": lambda b, a, results: complex_to_complex(b, a.self, a, results),
        "_fft_c2r": lambda b, a, results: complex_to_real(
            b, Pairs(*both_parts(b, a.self)), a, results
        ),
        "view_as_complex": _capture_as_complex,
        "view_as_real": _capture_as_real,
        "complex": _capture_complex,
        "polar": _capture_polar,
        "exp": lambda b, a, results: _exponential(b, a.self),
        "log": logarithm,
        "sqrt": root,
        "square": lambda b, a, results: _power(b, a.self, 2),
        "pow": power,
        **dict.fromkeys(("ones", "ones_like", "new_ones"), ones),
        "abs": of_parts("hypot"),
        "reciprocal": lambda b, a, results: _inverse(b, a.self),
        "angle": of_parts("atan2"),
        "real": lambda b, a, results: both_parts(b, a.self)[0],
        "imag": lambda b, a, results: both_parts(b, a.self)[1],
    }
