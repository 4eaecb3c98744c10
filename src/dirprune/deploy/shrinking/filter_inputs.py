"""The inputs that each filter of a convolution or linear layer depends on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.graph import Node
from dirprune.deploy.graph.operators.layouts import varies_only_along, vector
from dirprune.deploy.graph.operators.record import Shape

Bools = NDArray[np.bool_]


class FilterInputs(NamedTuple):
    """The effect of I inputs on each of O filters.

    Attributes:
        varying: Whether a nonzero weight reads an input that is not constant, with shape (O, I).
        padded: Whether the window reads padding instead of a nonzero constant at the border, with
            shape (O, I).
        gains: The sum of the weights between them, with shape (O, I).
        constants: Constants in the inputs, NaN where they vary, with shape (O, I) or (1, I).
    """

    varying: Bools
    padded: Bools
    gains: NDArray[Any]
    constants: NDArray[Any]

    def shift(self, inputs: Bools | None = None) -> NDArray[Any]:
        """Add up what constant inputs contribute to every filter, with shape (O,).

        Args:
            inputs: Which inputs to count, with shape (I,); by default all that are constant.
        """
        known = np.nan_to_num(self.constants, nan=0.0)
        if inputs is not None:
            known = known * inputs
        if len(known) == 1:  # most are 0: spare a float64 copy of all weights
            (some,) = known[0].nonzero()
            return np.asarray(self.gains[:, some] @ known[0, some])
        return np.asarray((self.gains * known).sum(axis=1))


def filter_inputs(
    node: Node, shape: Shape, weight: NDArray[Any], constants: NDArray[Any]
) -> FilterInputs:
    """Find the inputs of the filters of a node.

    Args:
        node: conv2d or linear.
        shape: Of the value that it reads.
        weight: Its weights.
        constants: Layout of the constants in the value, NaN where it varies.

    Returns:
        An input for every weight's second dimension; with groups, that of the filter's group.
    """
    axis = 0 if node.op == "conv2d" else len(shape) - 2
    channels = np.full(shape[axis + 1], np.nan)
    if varies_only_along(constants, axis):
        channels = np.array(vector(constants, axis, shape[axis + 1]), float)
    if node.op == "linear":
        nonzero = weight != 0
        varying = nonzero & np.isnan(channels)
        return FilterInputs(varying, np.zeros_like(varying), weight, channels[None])
    groups: Any = node.attrs["groups"]
    held = channels.reshape(groups, -1)
    if groups > 1:
        held = held.repeat(len(weight) // groups, axis=0)
    taps = weight != 0
    border = border_taps(node, shape, weight.shape[2:])
    outside = (taps & border).any(axis=(2, 3)) if border.any() else np.zeros(taps.shape[:2], bool)
    constant = ~np.isnan(held)
    return FilterInputs(
        taps.any(axis=(2, 3)) & ~constant,
        outside & constant & (held != 0),
        weight.sum(axis=(2, 3), dtype=np.float64),
        held,
    )


def border_taps(node: Node, shape: Shape, kernel: Shape) -> Bools:
    """Find the taps of a convolution that meet padding anywhere.

    Args:
        node: A conv2d.
        shape: Of the value that it reads.
        kernel: Height and width of the window.

    Returns:
        With shape (height, width).

    Example:
        >>> attrs = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
        >>> border_taps(Node("conv2d", (0,), (-1, 1, 8, 8), attrs), (-1, 1, 8, 8), (3, 3))
        array([[ True,  True,  True],
               [ True, False,  True],
               [ True,  True,  True]])
    """
    attrs: Mapping[str, Any] = node.attrs
    top, _, left, _ = attrs["padding"]
    sides = []
    for dim, low in enumerate((top, left)):
        stride, dilation = attrs["stride"][dim], attrs["dilation"][dim]
        first = np.arange(kernel[dim]) * dilation - low
        last = first + (node.shape[2 + dim] - 1) * stride
        sides.append((first < 0) | (last >= shape[2 + dim]))
    return np.asarray(sides[0][:, None] | sides[1][None, :])
