"""Logic on booleans, which a graph stores as 0 and 1, and on the bits of integers."""

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


_BITS = 24
"""float32 has all integers from -2^24 to 2^24; in two's complement bit 24 is their sign."""


def _capture_bits(op: str, parts: tuple[int, int]) -> Callable[..., Any]:
    """Write a (x + y) + b (x & y), where x & y is the sum of the products of bits."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        x, y = b.operand(a.self), b.operand(a.other)
        if _is_boolean(b, a.self) and _is_boolean(b, a.other):
            return b.combine(op, [x, y])
        weights = 2.0 ** torch.arange(_BITS + 1)
        weights[_BITS] *= -1
        both = b.combine("mul", [_bits_of(b, x), _bits_of(b, y)])
        common = b.combine("mul", [both, b.constant_of(weights)])
        common = b.reduce("sum", common, -1, False)
        whole, shared = parts
        if not whole:
            return common
        return b.combine("add", [b.combine("add", [x, y]), b.multiplied(common, shared)])

    return capture


def _bits_of(b: "Builder", x: Any) -> Any:
    """The bits of an integer, lowest first, as a new last dimension: floor(x / 2^k) mod 2."""
    powers = 2.0 ** torch.arange(_BITS + 1)
    wide = (*b.sizes(x), 1)
    if hasattr(x, "tensor"):
        return b.constant_of((x.tensor.reshape(wide) / powers).floor().remainder(2))
    x = b.reshape(x, wide)
    shifted = b.add("floor", [b.combine("div", [x, b.constant_of(powers)])])
    half = b.add("floor", [b.multiplied(shifted, 0.5)])
    return b.combine("sub", [shifted, b.multiplied(half, 2)])


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
        by = b.operand(a.other)
        power: Any
        if hasattr(by, "tensor"):
            power = b.constant_of(2.0**by.tensor)
        else:
            power = b.add("round", [b.combine("pow", [b.operand(2), by])])
        shifted = b.combine(op, [b.operand(a.self), power])
        return shifted if op == "mul" else b.add("floor", [shifted])

    return capture


_PAIRS = {"and": "mul", "or": "maximum", "xor": "ne"}
_PARTS = {"and": (0, 1), "or": (1, -1), "xor": (1, -2)}

LOGIC: dict[str, Callable[..., Any]] = {
    **{f"logical_{name}": _capture_logical(op) for name, op in _PAIRS.items()},
    **{f"bitwise_{name}": _capture_bits(op, _PARTS[name]) for name, op in _PAIRS.items()},
    **{f"__{name}__": _capture_bits(op, _PARTS[name]) for name, op in _PAIRS.items()},
    "bitwise_not": _capture_inverse,
    "any": _capture_whether("amax"),
    "all": _capture_whether("amin"),
    **dict.fromkeys(("__lshift__", "bitwise_left_shift"), _capture_shift("mul")),
    **dict.fromkeys(("__rshift__", "bitwise_right_shift"), _capture_shift("div")),
}
"""The ATen operators of logic, by name."""
