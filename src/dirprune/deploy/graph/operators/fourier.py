"""Fourier transforms of fixed sizes, as products with matrices of cosines and sines."""

from collections.abc import Callable, Sequence
from math import isqrt, pi, prod
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.indexing import take_places
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value

_DIRECT = 256
"""A transform of more values than this is written as two, each of about the root of its size."""
_LARGEST = 4096
"""The largest size without divisors: its matrix is written whole."""

_Parts = tuple["Value", "Value | None"]
"""A real and an imaginary part; None for 0."""


def real_to_complex(b: "Builder", a: "Arguments", results: Any) -> "tuple[Value, Value]":
    """Transform a real value.

    Args:
        b: The graph.
        a: Of ``_fft_r2c``.
        results: Sizes of the result.

    Returns:
        The real and the imaginary part.
    """
    sizes = b.sizes(a.self)
    parts: _Parts = (a.self, None)
    for dim in reversed(a.dim):
        size = sizes[dim]
        count = size // 2 + 1 if a.onesided and dim == a.dim[-1] else size
        parts = _transform(b, parts, dim % len(sizes), -1, count)
    return _scaled(b, parts, a, sizes)  # type: ignore[return-value]


def complex_to_complex(
    b: "Builder", parts: _Parts, a: "Arguments", results: Any
) -> "tuple[Value, Value]":
    """Transform a complex value, forward or back; the arguments are those of ``_fft_c2c``."""
    for dim in a.dim:
        size = results[0][dim]
        parts = _transform(b, parts, dim % len(results[0]), -1 if a.forward else 1, size)
    return _scaled(b, parts, a, results[0])  # type: ignore[return-value]


def complex_to_real(
    b: "Builder", parts: "tuple[Value, Value]", a: "Arguments", results: Any
) -> "Value":
    """Transform back to real values; what is left out are conjugates of what is given."""
    sizes = results[0]
    *others, last = [dim % len(sizes) for dim in a.dim]
    for dim in others:
        parts = _transform(b, parts, dim, 1, sizes[dim])  # type: ignore[assignment]
    mirrored = torch.arange(1, (_fixed(sizes[last]) + 1) // 2).flip(0)
    if mirrored.numel():
        real, imaginary = (take_places(b, x, last, mirrored) for x in parts)
        own = b.sizes(real)
        whole = (*own[:last], sizes[last], *own[last + 1 :])
        parts = (
            b.join([parts[0], real], last, whole),
            b.join([parts[1], b.multiplied(imaginary, -1)], last, whole),
        )
    return _scaled(b, _transform(b, parts, last, 1, sizes[last]), a, sizes)[0]


def _transform(b: "Builder", parts: _Parts, dim: int, sign: int, count: Any) -> _Parts:
    """Transform along one dimension, to the first ``count`` frequencies."""
    sizes = b.sizes(parts[0])
    b.axis(parts[0], dim)
    size = _fixed(sizes[dim])
    rows = _divisor(size)
    if size <= _DIRECT or rows == 1:
        return _matrix_product(b, parts, dim, sign, count)
    # A place is columns * row + column, a frequency is row + rows * column.
    columns = size // rows
    split = (*sizes[:dim], rows, columns, *sizes[dim + 1 :])
    parts = _transform(b, _each(parts, lambda x: b.reshape(x, split)), dim, sign, rows)
    parts = _turned(b, parts, size, sign, (rows, columns, *[1] * (len(sizes) - dim - 1)))
    parts = _transform(b, parts, dim + 1, sign, columns)
    order = [*range(dim), dim + 1, dim, *range(dim + 2, len(split))]
    parts = _each(parts, lambda x: b.reshape(b.permute(x, order), sizes))
    return _each(parts, lambda x: b.take(x, dim, 0, count))


def _matrix_product(b: "Builder", parts: _Parts, dim: int, sign: int, count: int) -> _Parts:
    size = b.sizes(parts[0])[dim]
    order = list(range(len(b.sizes(parts[0]))))
    order[dim], order[-1] = order[-1], order[dim]

    def product(x: "Value", weight: Constant) -> "Value":
        y = b.add("linear", [b.permute(x, order)], {}, {"weight": weight})
        return b.permute(y, order)

    return _complex_product(b, product, parts, _waves(b, size, sign, (count, size)))


def _turned(b: "Builder", parts: _Parts, size: int, sign: int, shape: tuple[int, ...]) -> _Parts:
    def product(x: "Value", factor: Constant) -> "Value":
        return b.combine("mul", [x, factor])

    return _complex_product(b, product, parts, _waves(b, size, sign, shape))


def _complex_product(b: "Builder", product: Callable[..., Any], x: _Parts, y: Any) -> _Parts:
    (p, q), (r, s) = x, y
    if q is None:
        return product(p, r), product(p, s)
    real = b.combine("sub", [product(p, r), product(q, s)])
    return real, b.combine("add", [product(p, s), product(q, r)])


def _waves(
    b: "Builder", size: int, sign: int, shape: tuple[int, ...]
) -> tuple[Constant, Constant]:
    """The real and the imaginary part of exp(sign 2 pi i row column / size)."""
    key = ("waves", size, sign, shape)
    if key not in b.shared:
        steps = torch.arange(shape[0])[:, None] * torch.arange(shape[1]) % size
        angles = steps.double().reshape(shape) * (sign * 2 * pi / size)
        waves = (angles.cos(), angles.sin())
        exact = [torch.where(w.abs() < 1e-9, 0.0, w).float() for w in waves]
        b.shared[key] = tuple(Constant(w) for w in exact)
    return b.shared[key]  # type: ignore[no-any-return]


def _scaled(b: "Builder", parts: _Parts, a: "Arguments", sizes: Sequence[int]) -> _Parts:
    count = prod(sizes[dim] for dim in a.dim)
    power = {0: 0.0, 1: -0.5, 2: -1.0}[a.normalization]
    return _each(parts, lambda x: b.multiplied(x, count**power))


def _each(parts: _Parts, function: "Callable[[Value], Value]") -> _Parts:
    real, imaginary = parts
    return function(real), None if imaginary is None else function(imaginary)


def _fixed(size: Any) -> int:
    if not isinstance(size, int) or size < 0:
        raise ValueError("its size varies: leave the size out of dynamic")
    if size > _LARGEST and _divisor(size) == 1:
        raise ValueError(
            f"a transform of {size} values, which is a prime number, is too large: pad to a size "
            "with divisors, such as a power of two"
        )
    return size


def _divisor(size: int) -> int:
    """The largest divisor that is at most the root."""
    return next(d for d in range(isqrt(size), 0, -1) if size % d == 0)
