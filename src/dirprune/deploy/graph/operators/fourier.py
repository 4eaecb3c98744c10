"""Fourier transforms of fixed sizes, as products with matrices of cosines and sines."""

from collections.abc import Sequence
from math import isqrt, pi, prod
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.indexing import take_places
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.pairs import Pairs, conjugated, each, multiplied
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value

_DIRECT = 256
"""A transform of more values is divided into two, each of about the square root of the size."""
_LARGEST = 4096
"""The largest prime size: its transform is one product with a whole matrix."""


def real_to_complex(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    """Write the transform of a real value: ``_fft_r2c``."""
    sizes = b.sizes(a.self)
    x = Pairs(a.self, None)
    for dim in reversed(a.dim):
        size = sizes[dim]
        count = size // 2 + 1 if a.onesided and dim == a.dim[-1] else size
        x = _transform(b, x, dim % len(sizes), -1, count)
    return _scaled(b, x, a, sizes)


def complex_to_complex(b: "Builder", x: Pairs, a: "Arguments", results: Any) -> Pairs:
    """Write the transform of a complex value, or its inverse: ``_fft_c2c``."""
    for dim in a.dim:
        size = results[0][dim]
        x = _transform(b, x, dim % len(results[0]), -1 if a.forward else 1, size)
    return _scaled(b, x, a, results[0])


def complex_to_real(b: "Builder", x: Pairs, a: "Arguments", results: Any) -> "Value":
    """Write the inverse transform to real values: ``_fft_c2r``.

    The input lacks the second half of the last dimension. Its entries are the conjugates of those
    of the first half in reverse order, because the result is real.
    """
    sizes = results[0]
    *others, last = [dim % len(sizes) for dim in a.dim]
    for dim in others:
        x = _transform(b, x, dim, 1, sizes[dim])
    mirrored = torch.arange(1, (_fixed(sizes[last]) + 1) // 2).flip(0)
    if mirrored.numel():
        half = conjugated(b, each(x, lambda part: take_places(b, part, last, mirrored)))
        own = b.sizes(half.real)
        whole = (*own[:last], sizes[last], *own[last + 1 :])
        parts = zip(x, half)  # neither imaginary part is None
        x = Pairs(*(b.join(part, last, whole) for part in parts))  # type: ignore[arg-type]
    return _scaled(b, _transform(b, x, last, 1, sizes[last]), a, sizes).real


def _transform(b: "Builder", x: Pairs, dim: int, sign: int, count: Any) -> Pairs:
    """Transform along one dimension, to the first ``count`` frequencies."""
    sizes = b.sizes(x.real)
    b.axis(x.real, dim)
    size = _fixed(sizes[dim])
    rows = _divisor(size)
    if size <= _DIRECT or rows == 1:
        return _matrix_product(b, x, dim, sign, count)
    # The value number columns * row + column gives the frequency number row + rows * column.
    columns = size // rows
    split = (*sizes[:dim], rows, columns, *sizes[dim + 1 :])
    x = _transform(b, each(x, lambda part: b.reshape(part, split)), dim, sign, rows)
    factors = _waves(b, size, sign, (rows, columns, *[1] * (len(sizes) - dim - 1)))
    x = multiplied(b, lambda part, factor: b.combine("mul", [part, factor]), x, factors)
    x = _transform(b, x, dim + 1, sign, columns)
    order = [*range(dim), dim + 1, dim, *range(dim + 2, len(split))]
    x = each(x, lambda part: b.reshape(b.permute(part, order), sizes))
    return each(x, lambda part: b.take(part, dim, 0, count))


def _matrix_product(b: "Builder", x: Pairs, dim: int, sign: int, count: int) -> Pairs:
    sizes = b.sizes(x.real)
    order = list(range(len(sizes)))
    order[dim], order[-1] = order[-1], order[dim]

    def product(part: "Value", weight: Constant) -> "Value":
        y = b.add("linear", [b.permute(part, order)], {}, {"weight": weight})
        return b.permute(y, order)

    return multiplied(b, product, x, _waves(b, sizes[dim], sign, (count, sizes[dim])))


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


def _scaled(b: "Builder", x: Pairs, a: "Arguments", sizes: Sequence[int]) -> Pairs:
    count = prod(sizes[dim] for dim in a.dim)
    power = {0: 0.0, 1: -0.5, 2: -1.0}[a.normalization]
    return each(x, lambda part: b.multiplied(part, count**power))


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
