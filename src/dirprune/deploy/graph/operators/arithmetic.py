"""Arithmetic of two values that broadcast, or of one and a number."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.division import capture_floor
from dirprune.deploy.graph.operators.layouts import Layout, operand
from dirprune.deploy.graph.operators.record import Attributes, Operator, Shape, TensorShapes
from dirprune.deploy.graph.traced_sizes import is_finite, is_number, real

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.liveness import Rules


def broadcast(inputs: Sequence[Shape]) -> Shape:
    """The shape of values, the batch first, and constants that broadcast each other."""
    batched = [shape for shape in inputs if shape[:1] == (-1,)]
    if not batched:
        raise ValueError("reads constants only")
    rank = len(batched[0])
    for shape in inputs:
        aligned = len(shape) == rank if shape in batched else len(shape) <= rank
        if not aligned or (len(shape) == rank and shape[0] not in (-1, 1)):
            raise ValueError(f"broadcasts {' and '.join(map(str, inputs))} along the batch")
    rows = [(1,) * (rank - len(shape)) + shape for shape in inputs]
    result = [-1]
    for dims in list(zip(*rows))[1:]:
        size = next((dim for dim in dims if dim != 1), 1)
        if any(dim not in (1, size) for dim in dims):
            shapes = " and ".join(map(str, inputs))
            if all(isinstance(dim, int) for dim in dims):
                raise ValueError(f"cannot broadcast {shapes}")
            raise ValueError(
                f"cannot broadcast {shapes}, whose sizes vary: reshape an input so that both "
                "sizes are the same"
            )
        result.append(size)
    return tuple(result)


def _shape(inputs: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    if (len(inputs) == 2) == ("scalar" in attrs):
        raise ValueError("takes either two inputs or one and a scalar")
    if "reversed" in attrs and "scalar" not in attrs:
        raise ValueError("only a scalar can come first")
    return broadcast(inputs)


def _run(operation: Callable[[Any, Any], Any]) -> Callable[..., "Tensor"]:
    def run(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
        second = x[1] if len(x) > 1 else a["scalar"]
        pair = (second, x[0]) if a.get("reversed") else (x[0], second)
        return operation(*pair)  # type: ignore[no-any-return]

    return run


def _capture(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        other, alpha = a.other, getattr(a, "alpha", 1)
        rounding = getattr(a, "rounding_mode", None)
        if rounding == "floor":
            return capture_floor(b, a, results)  # type: ignore[no-any-return]
        if is_number(a.self):
            return b.combine(op, [b.operand(a.self), b.multiplied(other, alpha)])
        if is_number(other) and op in ("add", "sub") and other == 0:
            return a.self  # type: ignore[no-any-return]
        if is_number(other) and op == "mul" and other != 1:
            return b.multiplied(a.self, other)  # type: ignore[no-any-return]
        if is_finite(other):
            result = b.add(op, [a.self], {"scalar": real(other * alpha)})
        else:
            result = b.combine(op, [a.self, b.operand(b.multiplied(other, alpha))])
            if op == "add" and alpha == 1:
                b.note_flat_place(result, a.self, other)
                b.note_flat_place(result, other, a.self)
        return result if rounding is None else b.add(rounding, [result])

    return capture


def _capture_reversed(op: str, scalar: str | float) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        first = getattr(a, scalar) if isinstance(scalar, str) else scalar
        alpha = getattr(a, "alpha", 1)
        if not is_number(first):  # rsub of a tensor: other - alpha self
            return b.combine(op, [first, b.multiplied(a.self, alpha)])
        return b.add(op, [b.multiplied(a.self, alpha)], {"scalar": real(first), "reversed": 1})

    return capture


def _write(op: str) -> Callable[..., None]:
    def write(w: "Writer", n: "OnnxNode") -> None:
        inputs = list(n.inputs)
        if "scalar" in n.attrs:
            inputs.append(w.scalar(n.attrs["scalar"], f"{n.name}.scalar"))
        w.add(op, inputs[::-1] if n.attrs.get("reversed") else inputs, n.name)

    return write


class Combined(Channels):
    """Elements that are combined stay or go together.

    Args:
        operation: On arrays of constants, NaN where they vary, one for each input.
    """

    def __init__(self, operation: Callable[..., Layout]) -> None:
        self._operation = operation

    def constants(self, known: "ConstantInputs") -> Layout:
        rank = known.rank + 1
        inputs = [
            operand(held, rank) if fixed else held
            for held, fixed in zip(known.inputs, known.are_constants)
        ]
        if "scalar" in known.attrs:
            inputs.append(np.array(known.attrs["scalar"]))
        if known.attrs.get("reversed", 0):
            inputs.reverse()
        return self._operation(*inputs) + np.zeros((1,) * known.rank)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        """Elements that are combined stay or go together; one that is spread stays for any."""
        from dirprune.deploy.shrinking.liveness import Follows

        fixed = [rules.is_constant(value) for value in node.inputs]
        common = np.broadcast_shapes(*(own.shape for own, c in zip(inputs, fixed) if not c))
        result = rules.fresh(*common)
        for value, shape, layout, is_constant in zip(node.inputs, shapes, inputs, fixed):
            own = (1,) * (len(node.shape) - len(shape)) + shape
            if is_constant:
                common_with_own = [min(size, mine) for size, mine in zip(common, own[1:])]
                layout = rules.fresh(*common_with_own)
                rules.layouts[value] = layout.reshape((1, *layout.shape)[-len(shape) :])
                if len(rules.readers[value]) > 1:
                    rules.keep(result, "shared")
            spread = any(mine == 1 < size for size, mine in zip(common, own[1:]))
            tied = not spread or layout.size > 1  # such as a factor of an outer product
            layout = np.broadcast_to(layout, common)
            rules.add(Follows(result, layout, "joined", is_need=True))
            if tied:
                rules.add(Follows(layout, result, "joined"))
        return result


def _product(a: Layout, b: Layout) -> Layout:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _arithmetic(
    name: str,
    operation: Callable[[Any, Any], Any],
    constants: Callable[[Layout, Layout], Layout],
    more: dict[str, Callable[..., Any]],
) -> Operator:
    flags = {"reversed": "flag"} if name in ("sub", "div") else {}
    return Operator(
        _shape,
        _run(operation),
        inputs=(1, 2),
        optional_attrs={"scalar": "float", **flags},
        captured={name: _capture(name), **more},
        onnx=_write(name.capitalize()),
        channels=Combined(constants),
        reads_constants=True,
    )


ARITHMETIC = {
    "add": _arithmetic("add", lambda a, b: a + b, np.add, {}),
    "sub": _arithmetic(
        "sub", lambda a, b: a - b, np.subtract, {"rsub": _capture_reversed("sub", "other")}
    ),
    "mul": _arithmetic(
        "mul",
        lambda a, b: a * b,
        _product,
        {
            "neg": lambda b, a, results: b.multiplied(a.self, -1),
            "square": lambda b, a, results: b.add("mul", [a.self, a.self]),
        },
    ),
    "div": _arithmetic(
        "div",
        lambda a, b: a / b,
        np.divide,
        {
            "reciprocal": _capture_reversed("div", 1.0),
            "true_divide": _capture("div"),
        },
    ),
}
