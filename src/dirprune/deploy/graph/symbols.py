"""Symbolic numbers of ``torch.export`` as sizes."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from dirprune.deploy.graph.traced_sizes import compute

_FOLDED = {"Add": "+", "Mul": "*", "Max": "max", "Min": "min"}
_FUNCTIONS = {
    "FloorDiv": "//", "CleanDiv": "//", "IntTrueDiv": "/", "FloatTrueDiv": "/", "Mod": "%",
    "PythonMod": "%", "TruncToInt": "trunc", "FloorToInt": "floor", "floor": "floor",
    "CeilToInt": "ceil", "ceiling": "ceil", "RoundToInt": "round", "OpaqueUnaryFn_sqrt": "sqrt",
}  # fmt: skip
_SAME = ("ToFloat", "Identity")


def size_of(expression: Any, symbols: Mapping[Any, Any]) -> Any:
    """Read an expression.

    Args:
        expression: Of sympy, from ``torch.export``.
        symbols: A size or number for every symbol.

    Returns:
        A size, or a number if it does not depend on sizes.

    Raises:
        ValueError: If it has an unknown function.
    """
    if expression in symbols:
        return symbols[expression]
    if expression.is_number:
        return int(expression) if expression.is_Integer else float(expression)
    name = type(expression).__name__
    parts = [size_of(part, symbols) for part in expression.args]
    if name in _FOLDED:
        fold: Callable[[Any, Any], Any] = lambda a, b: compute(_FOLDED[name], a, b)  # noqa: E731
        return reduce(fold, parts)
    if name in _FUNCTIONS:
        return compute(_FUNCTIONS[name], *parts)
    if name == "ModularIndexing":
        return compute("%", compute("//", parts[0], parts[1]), parts[2])
    if name in ("Pow", "PowByNatural", "FloatPow") and parts[1] in (0.5, 1, 2, 3, 4):
        if parts[1] == 0.5:
            return compute("sqrt", parts[0])
        return reduce(lambda a, b: compute("*", a, b), [parts[0]] * int(parts[1]))
    if name in _SAME:
        return parts[0]
    raise ValueError(f"it computes {expression} from sizes")
