"""Convolutions whose weights depend on the input: every sample has its own.

Networks write them with the samples as groups of channels: the input has sizes
(1, batch x channels, ...), the weight (batch x outputs, channels / groups, ...), and the
convolution batch x groups groups.
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from dirprune.deploy.graph.operators.indexing import take_places
from dirprune.deploy.graph.operators.lazy_torch import torch

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value


def has_own_filters(b: "Builder", a: "Arguments") -> bool:
    """Whether a convolution has a group for every sample, and weights that depend on it."""
    x = b.sizes(a.input)
    own = hasattr(a.weight, "dims") and hasattr(a.groups, "expression")
    return own and x[0] == 1 and x[1] < 0 and b.sizes(a.weight)[0] < 0


def convolve_samples(
    b: "Builder",
    a: "Arguments",
    sizes: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> "Value":
    """Write the product of the windows of every sample and its own weights.

    Args:
        b: The graph.
        a: Of the convolution.
        sizes: Of the result.
        stride: For each size of a sequence or map.
        padding: Before and behind each size.
        dilation: For each size.
    """
    _, channels, *space = b.sizes(a.input)
    outputs, inputs, *kernel = b.sizes(a.weight)
    x = b.reshape(a.input, (-1, -channels, *space))
    weight = b.reshape(a.weight, (-1, -outputs, inputs, *kernel))
    y = _product(b, x, weight, sizes[2:], stride, padding, dilation)
    return _with_bias(b, a, b.reshape(y, tuple(sizes)))


def convolve_samples_transposed(b: "Builder", a: "Arguments", sizes: Sequence[int]) -> "Value":
    """The same for a transposed convolution of maps: zeros between pixels, mirrored weights."""
    from dirprune.deploy.graph.operators.convolution import pair

    _, channels, *space = b.sizes(a.input)
    inputs, outputs, *kernel = b.sizes(a.weight)
    groups = -sizes[1] // outputs
    x = b.reshape(a.input, (-1, -channels, *space))
    stride, padding, dilation, more = (
        pair(getattr(a, key)) for key in ("stride", "padding", "dilation", "output_padding")
    )
    if stride != (1, 1):
        x = b.add("dilate", [x], {"stride": stride})
    edges = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding)]
    sides = tuple(side for e, m in zip(edges, more) for side in (e, e + m))
    if min(sides) < 0:
        raise ValueError("its padding is larger than its window, and its weight depends on the "
                         "input")  # fmt: skip
    weight = b.reshape(a.weight, (-1, groups, -inputs // groups, outputs, *kernel))
    weight = b.permute(weight, (0, 1, 3, 2, 4, 5))
    for dim, size in zip((4, 5), kernel):
        weight = take_places(b, weight, dim, torch.arange(size - 1, -1, -1))
    weight = b.reshape(weight, (-1, groups * outputs, -inputs // groups, *kernel))
    y = _product(b, x, weight, sizes[2:], (1, 1), sides, dilation)
    return _with_bias(b, a, b.reshape(y, tuple(sizes)))


def _product(
    b: "Builder",
    x: "Value",
    weight: "Value",
    sizes: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> "Value":
    """(batch, outputs, places) of (batch, channels, ...) and (batch, outputs, inputs, ...)."""
    _, channels, *space = b.sizes(x)
    _, outputs, inputs, *kernel = b.sizes(weight)
    groups = channels // inputs
    high = [1] * (2 - len(space))  # a sequence is a map of height 1
    x = b.plain(b.reshape(x, (-1, channels, *high, *space)))
    sides = (0, 0) * len(high) + tuple(padding)
    if any(sides):
        x = b.add("pad", [x], {"padding": sides, "value": 0.0})
    width = b.sizes(x)[3]
    rows, columns = (
        torch.arange(count)[:, None] * s + torch.arange(k) * d
        for count, k, s, d in zip((*high, *sizes), (*high, *kernel), (*high, *stride),
                                  (*high, *dilation))
    )  # fmt: skip
    places = rows.t()[:, None, :, None] * width + columns.t()[None, :, None, :]
    x = b.reshape(x, (-1, channels, prod(b.sizes(x)[2:])))
    x = take_places(b, x, 2, places)
    windows = b.reshape(x, (-1, groups, inputs * prod(kernel), prod(sizes)))
    rows_of_weights = (-1, groups, outputs // groups, inputs * prod(kernel))
    return b.add("matmul", [b.plain(b.reshape(weight, rows_of_weights)), b.plain(windows)])


def _with_bias(b: "Builder", a: "Arguments", y: "Value") -> "Value":
    if a.bias is None:
        return y
    bias = b.reshape(a.bias, (1, *b.sizes(a.bias), *(1 for _ in b.sizes(y)[2:])))
    return b.combine("add", [y, bias])
