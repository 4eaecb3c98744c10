"""Sizes that vary within bounds, and what is computed from them.

An expression is a number, the name of a size, or a list of an operator and two expressions (one
for a rounding): ``["+", ["//", "x.2", 2], 1]``. Files hold expressions as JSON.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Expression: TypeAlias = Any
"""A number, a name, or ``[operator, expression, ...]``."""

LARGEST_SIZE = 1 << 53
"""Results stay below, so that 64 bits and a float64 hold them."""
_DEEPEST = 64
"""Levels of lists in an expression."""


class _Function(NamedTuple):
    operands: int
    one: Callable[..., Any]  # of Python's numbers
    many: Callable[..., Any]  # of arrays


def _rounded(how: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: how(x).astype(np.int64)


FUNCTIONS: Mapping[str, _Function] = {
    "+": _Function(2, operator.add, np.add),
    "-": _Function(2, operator.sub, np.subtract),
    "*": _Function(2, operator.mul, np.multiply),
    "//": _Function(2, operator.floordiv, np.floor_divide),
    "%": _Function(2, operator.mod, np.mod),
    "/": _Function(2, operator.truediv, np.true_divide),
    "min": _Function(2, min, np.minimum),
    "max": _Function(2, max, np.maximum),
    "floor": _Function(1, math.floor, _rounded(np.floor)),
    "ceil": _Function(1, math.ceil, _rounded(np.ceil)),
    "trunc": _Function(1, math.trunc, _rounded(np.trunc)),
    "round": _Function(1, round, _rounded(np.round)),
    "sqrt": _Function(1, math.sqrt, np.sqrt),
}


@dataclass(frozen=True)
class SizeRange:
    """A size of an input.

    Attributes:
        name: Its name in expressions: the input and the dimension, such as ``x.2``.
        low: Smallest size.
        high: Largest size.
        step: Difference between two sizes.

    Raises:
        ValueError: If there is no such size.
    """

    name: str
    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.step)
        if any(type(n) is not int for n in numbers) or not (
            1 <= self.low <= self.high < 1 << 31 and 1 <= self.step < 1 << 31
        ):
            raise ValueError(
                f"the bounds of {self.name} must be integers, 1 <= low <= high, and a step of at "
                f"least 1, got {numbers}"
            )

    def __contains__(self, size: int) -> bool:
        return self.low <= size <= self.high and (size - self.low) % self.step == 0

    def __str__(self) -> str:
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{self.low} to {self.high}{steps}"

    @property
    def sizes(self) -> range:
        """All sizes."""
        return range(self.low, self.high + 1, self.step)


def evaluate(expression: Expression, sizes: Mapping[str, int]) -> int | float:
    """Compute an untrusted expression.

    Args:
        expression: What is computed.
        sizes: The sizes by name.

    Raises:
        ValueError: If it is not an expression, divides by zero, or gives a result that is too
            large.

    Example:
        >>> evaluate(["+", ["//", ["-", "x.2", 1], 2], 1], {"x.2": 7})
        4
    """
    return _evaluated(expression, sizes, 0)


def _evaluated(expression: Expression, sizes: Mapping[str, int], depth: int) -> int | float:
    if type(expression) is str:
        if expression not in sizes:
            raise ValueError(f"there is no size {expression!r:.40}")
        return sizes[expression]
    if type(expression) in (int, float):
        result = expression
    else:
        if type(expression) is not list or not expression or depth >= _DEEPEST:
            raise ValueError(f"{expression!r:.40} is not an expression of sizes")
        name, *operands = expression
        function = FUNCTIONS.get(name) if type(name) is str else None
        if function is None or len(operands) != function.operands:
            raise ValueError(f"{expression!r:.40} is not an expression of sizes")
        values = [_evaluated(part, sizes, depth + 1) for part in operands]
        try:
            result = function.one(*values)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(f"a size cannot be computed: {error}") from None
    if not -LARGEST_SIZE < result < LARGEST_SIZE:
        raise ValueError("a size is out of range")
    return result  # type: ignore[no-any-return]
