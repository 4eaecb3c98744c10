"""Sizes that vary, computed by an ONNX graph from the shapes of its inputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.sizes import Expression
from dirprune.deploy.graph.traced_sizes import Size

if TYPE_CHECKING:
    from dirprune.deploy.onnx_writer import Writer

_OPERATORS = {"+": "Add", "-": "Sub", "*": "Mul", "%": "Mod", "min": "Min", "max": "Max"}
_ROUNDINGS = {"floor": "Floor", "ceil": "Ceil", "round": "Round"}


class SizeWriter:
    """Writes expressions of sizes as nodes; every expression once.

    Args:
        writer: Writes the nodes.
        dynamic: The sizes of the graph.
        inputs: Names of the input tensors.
    """

    def __init__(self, writer: "Writer", dynamic: Dynamic, inputs: Sequence[str]) -> None:
        self._writer = writer
        self._places = {
            expression: (name, dim)
            for name, own in zip(inputs, dynamic.inputs, strict=True)
            for dim, expression in enumerate(own, 1)
            if type(expression) is str
        }
        self._known: dict[str, str] = {}

    def write(self, size: Size, as_float: bool = False) -> str:
        """A size as a list of one integer, or of one float64 if it may be a fraction."""
        name, is_integer = self._written(size.expression)
        return name if is_integer or as_float else self._cast(name, TensorProto.INT64)

    def _written(self, expression: Expression) -> tuple[str, bool]:
        """The name of the result, and whether it is an integer; otherwise it is a float64."""
        if type(expression) is int:
            return self._writer.integers([expression]), True
        if type(expression) is float:
            value = np.array([expression], np.float64)
            return self._writer.tensor(value, f"number.{expression}"), False
        is_integer = type(expression) is str or not _is_float(expression)
        key = repr(expression)
        if key not in self._known:
            self._known[key] = self._new(expression)
        return self._known[key], is_integer

    def _new(self, expression: Expression) -> str:
        add = self._writer.add
        if type(expression) is str:
            name, dim = self._places[expression]
            return add("Shape", [name], start=dim, end=dim + 1)
        operator, *operands = expression
        parts = [self._written(operand) for operand in operands]
        names = [name for name, _ in parts]
        if operator == "//" and all(is_integer for _, is_integer in parts):
            rest = add("Mod", names)  # with the sign of the divisor, so that this rounds down
            return add("Div", [add("Sub", [names[0], rest]), names[1]])
        if operator in ("/", "sqrt", "//") or not all(is_integer for _, is_integer in parts):
            names = [
                self._cast(name, TensorProto.DOUBLE) if is_integer else name
                for name, is_integer in parts
            ]
        if operator == "/":
            return add("Div", names)
        if operator == "//":
            return add("Floor", [add("Div", names)])
        if operator == "sqrt":
            return add("Sqrt", names)
        if operator in _OPERATORS:
            return add(_OPERATORS[operator], names)
        if parts[0][1]:
            return names[0]  # an integer is rounded already
        if operator == "trunc":
            return self._cast(names[0], TensorProto.INT64)
        return self._cast(add(_ROUNDINGS[operator], names), TensorProto.INT64)

    def _cast(self, name: str, kind: int) -> str:
        return self._writer.add("Cast", [name], to=kind)


def _is_float(expression: Any) -> bool:
    if type(expression) is not list:
        return type(expression) is float
    operator, *operands = expression
    if operator in ("/", "sqrt"):
        return True
    return operator in ("//", *_OPERATORS) and any(map(_is_float, operands))
