"""Effects of operators on channels: which are constant, which are kept together, what is cut.

The record of an operator has one :class:`Channels`. By default the result varies, and all inputs
of the operator are kept.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.layouts import Layout, varies_only_along, varying

if TYPE_CHECKING:
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.operators.record import Shape
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.cut import NodeCut
    from dirprune.deploy.shrinking.liveness import Rules


class Channels:
    """The rules of one operator; these are those of an operator that mixes everything."""

    def constants(self, known: "ConstantInputs") -> Layout:
        """Return the constants in the result, NaN where it depends on the input."""
        return varying(known.rank)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: "Sequence[Shape]", inputs: list[Layout]
    ) -> Layout | None:
        """Number the elements of the result and add rules on what must stay.

        Args:
            rules: What is collected.
            node: The node.
            shapes: Of the values that it reads.
            inputs: The numbers of their elements.

        Returns:
            The numbers, or None if everything that it reads must stay.
        """
        return None

    def cut(self, change: "NodeCut") -> None:
        """Fit attributes and tensors to the smaller values that the node reads."""


class Elementwise(Channels):
    """One result for every element."""

    def constants(self, known: "ConstantInputs") -> Layout:
        return np.where(np.isnan(known.inputs[0]), np.nan, known.run())

    def numbers(
        self, rules: "Rules", node: "Node", shapes: "Sequence[Shape]", inputs: list[Layout]
    ) -> Layout | None:
        return inputs[0]


class Unchanged(Elementwise):
    """The same elements."""

    def constants(self, known: "ConstantInputs") -> Layout:
        return known.inputs[0]


class Spatial(Channels):
    """Each channel on its own, over height and width.

    Args:
        unchanged: Given the constants of the input and the attributes, whether the operator maps
            each constant channel to the same constant; by default it always does.
    """

    def __init__(self, unchanged: Callable[[Layout, Any], Any] | None = None) -> None:
        self._unchanged = unchanged

    def constants(self, known: "ConstantInputs") -> Layout:
        held = known.inputs[0]
        if not varies_only_along(held, 0):
            return varying(known.rank)
        if self._unchanged is None:
            return held
        return np.where(self._unchanged(held, known.attrs), held, np.nan)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: "Sequence[Shape]", inputs: list[Layout]
    ) -> Layout | None:
        return inputs[0] if varies_only_along(inputs[0], 0) else None
