"""Places of the maxima that max pooling finds, and maps with the maxima put back there."""

import math
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.composed import Term
from dirprune.deploy.graph.operators.convolution import pair
from dirprune.deploy.graph.operators.indexing import take_places
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value


def places_of_maxima(b: "Builder", a: "Arguments", sizes: Shape) -> "Value":
    """Write the index of every window's maximum in the plane of the map.

    Args:
        b: The graph.
        a: Of the pooling.
        sizes: Of the result.
    """
    kernel, padding, dilation = pair(a.kernel_size), pair(a.padding), pair(a.dilation)
    stride = pair(a.stride) if a.stride else kernel
    *ahead, height, width = b.sizes(a.self)
    high, wide = sizes[-2:]
    rows, columns = (
        torch.arange(count)[:, None] * s - p + torch.arange(k) * d
        for count, s, p, k, d in zip((high, wide), stride, padding, kernel, dilation)
    )
    after = [max(int(place.max()) + 1 - size, 0) for place, size in
             ((rows, height), (columns, width))]  # fmt: skip
    x = a.self
    if any((*padding, *after)):
        sides = (padding[0], after[0], padding[1], after[1])
        x = b.map(x, lambda y: b.add("pad", [y], {"padding": sides, "value": _LOWEST}))
    *_, padded_height, padded_width = b.sizes(x)
    x = b.reshape(x, (*ahead, padded_height * padded_width))
    shape = (high, wide, *kernel)
    inside = (rows[:, None, :, None] + padding[0]) * padded_width
    inside = (inside + columns[None, :, None, :] + padding[1]).expand(shape)
    x = b.reshape(take_places(b, x, len(ahead), inside), (*ahead, high * wide, math.prod(kernel)))
    found = Term(b, b.reduce_one("argmax", x, len(ahead) + 1, False))  # in the window
    start = (rows[:, :1] * width + columns[:, 0]).reshape(-1)
    row = (found / kernel[1]).apply("floor")
    step = dilation[0] * width - kernel[1] * dilation[1]
    place = found * dilation[1] + row * step + Term(b, Constant(start.float()))
    result: Value = b.reshape(place.held, sizes)
    if stride[0] >= kernel[0] and stride[1] >= kernel[1] and padding == (0, 0):
        b.pooled[result.number] = (*stride, width)
    return result


_LOWEST = -3.4e38


def _capture_unpool(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Every pixel is in one window: it has the window's maximum if the place is its own."""
    *_, height, width = results[0]
    known = b.pooled.get(getattr(a.indices, "number", -1))
    if known is None or known[2] != width:
        raise ValueError("it needs the indices of a max pooling without padding whose windows do "
                         "not overlap, and the width of its input in output_size")  # fmt: skip

    def spread(x: "Value") -> "Value":
        wide = [size * stride for size, stride in zip(b.sizes(x)[2:], known)]
        x = b.add("upsample_nearest", [x], {"output": tuple(wide)})
        for dim, size in ((2, height), (3, width)):
            x = b.take(x, dim, 0, min(size, b.sizes(x)[dim]))
        more = [size - own for size, own in zip((height, width), b.sizes(x)[2:])]
        sides = (0, more[0], 0, more[1])
        return b.add("pad", [x], {"padding": sides, "value": -1.0}) if any(more) else x

    plane = Constant(torch.arange(height * width).reshape(height, width).float())
    own = b.combine("eq", [b.map(a.indices, spread), plane])
    return b.combine("where", [own, b.map(a.self, spread), b.operand(0.0)])


UNPOOLED = {"max_unpool2d": _capture_unpool}
"""The ATen operators that put maxima back, by name."""
