"""Numbers that depend on the size of the batch, as nodes of a graph."""

from functools import reduce
from typing import Any

from dirprune.deploy.graph.builder import Builder
from dirprune.deploy.graph.values import Value

_FOLDED = {"Add": "add", "Mul": "mul", "Max": "maximum", "Min": "minimum"}
_DIVISIONS = ("FloorDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv")
_SAME = ("ToFloat", "Identity")


def write_number(b: Builder, expression: Any, symbols: Any) -> Any:
    """Write a number that depends on the size of the batch.

    Args:
        b: The builder of the graph.
        expression: A sympy expression from ``torch.export``.
        symbols: Symbols for the size of the batch.

    Returns:
        A value that is the same for every sample, or a float if it does not depend on the batch.

    Raises:
        ValueError: If it has a function without an operator.
    """
    if expression in symbols:
        return b.batch_size()
    if expression.is_number:
        return float(expression)
    parts = [write_number(b, part, symbols) for part in expression.args]
    name = type(expression).__name__

    def combine(op: str, *operands: Any) -> Value:
        return b.combine(op, [b.operand(x) for x in operands])

    if name in _FOLDED:
        return reduce(lambda left, right: combine(_FOLDED[name], left, right), parts)
    if name in _DIVISIONS:
        quotient = combine("div", *parts)
        return b.add("floor", [quotient]) if name == "FloorDiv" else quotient
    if name in ("Mod", "PythonMod"):
        quotient = b.add("floor", [combine("div", *parts)])
        return combine("sub", parts[0], combine("mul", quotient, parts[1]))
    if name in ("Pow", "FloatPow", "PowByNatural"):
        return combine("pow", *parts)
    if name in _SAME:
        return parts[0]
    if name in ("OpaqueUnaryFn_sqrt", "OpaqueUnaryFn_exp", "OpaqueUnaryFn_log", "TruncToInt"):
        return b.add(name.removeprefix("OpaqueUnaryFn_").replace("TruncToInt", "trunc"), parts)
    raise ValueError(f"it computes {expression} from the size of the batch")
