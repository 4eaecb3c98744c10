"""Logic on booleans, which a graph stores as 0 and 1."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.lazy_torch import torch

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value


def _is_boolean(b: "Builder", x: Any) -> bool:
    if hasattr(x, "tensor"):
        return bool(x.tensor.dtype == torch.bool)
    return isinstance(x, bool) or getattr(x, "number", -1) in b.booleans


def _capture_logical(op: str) -> Callable[..., Any]:
    """Numbers other than 0 are true."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        read = [
            x if _is_boolean(b, x) else b.combine("ne", [b.as_value(x), b.operand(0)])
            for x in (a.self, a.other)
        ]
        return b.combine(op, [b.operand(x) for x in read])

    return capture


def _capture_bits(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        if not (_is_boolean(b, a.self) and _is_boolean(b, a.other)):
            raise ValueError("it works on the bits of integers")
        return b.combine(op, [b.operand(a.self), b.operand(a.other)])

    return capture


def _capture_inverse(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Not x; of an integer all bits are inverted, which gives -x - 1."""
    if _is_boolean(b, a.self):
        return b.add("logical_not", [a.self])
    return b.add("sub", [a.self], {"scalar": -1.0, "reversed": 1})


def _capture_whether(op: str) -> Callable[..., Any]:
    """Whether any or all elements are true."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        x = a.self if _is_boolean(b, a.self) else b.combine("ne", [a.self, b.operand(0)])
        return b.reduce(op, x, getattr(a, "dim", None), getattr(a, "keepdim", False))

    return capture


def _capture_shift(op: str) -> Callable[..., Any]:
    """Multiply by a power of two, or divide and round down."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        power = getattr(b.operand(a.other), "tensor", None)
        if power is None:
            raise ValueError("it shifts by a number that depends on the input")
        shifted = b.combine(op, [a.self, b.constant_of(2.0**power)])
        return shifted if op == "mul" else b.add("floor", [shifted])

    return capture


_PAIRS = {"and": "mul", "or": "maximum", "xor": "ne"}

LOGIC: dict[str, Callable[..., Any]] = {
    **{f"logical_{name}": _capture_logical(op) for name, op in _PAIRS.items()},
    **{f"bitwise_{name}": _capture_bits(op) for name, op in _PAIRS.items()},
    **{f"__{name}__": _capture_bits(op) for name, op in _PAIRS.items()},
    "bitwise_not": _capture_inverse,
    "any": _capture_whether("amax"),
    "all": _capture_whether("amin"),
    **dict.fromkeys(("__lshift__", "bitwise_left_shift"), _capture_shift("mul")),
    **dict.fromkeys(("__rshift__", "bitwise_right_shift"), _capture_shift("div")),
}
"""The ATen operators of logic, by name."""
