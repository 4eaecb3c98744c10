"""Comparisons, choices and other functions of several values that broadcast each other."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.arithmetic import Combined, broadcast
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Attributes, Operator, Shape, TensorShapes

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    return broadcast(x)


def _capture(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        return b.combine(op, [b.operand(a.self), b.operand(a.other)])

    return capture


def _compared(run: Callable[[Any, Any], Any]) -> Callable[..., "Tensor"]:
    def compare(x: "list[Tensor]", t: Any, a: Any) -> "Tensor":
        dtype = torch.promote_types(x[0].dtype, x[1].dtype)
        return run(x[0], x[1]).to(dtype)  # type: ignore[no-any-return]

    return compare


def _write_compared(op: str) -> Callable[..., None]:
    def write(w: "Writer", n: "OnnxNode") -> None:
        if op == "NotEqual":
            w.add("Cast", [w.add("Not", [w.add("Equal", n.inputs)])], n.name, to=1)
        else:
            w.add("Cast", [w.add(op, n.inputs)], n.name, to=1)

    return write


def _pairwise(
    op: str, run: Callable[..., Any], onnx: Any, captured: Sequence[str] = ()
) -> Operator:
    return Operator(
        _shape,
        run,
        inputs=(2, 2),
        captured=dict.fromkeys(captured or (op,), _capture(op)),
        onnx=onnx,
        channels=Combined(_if_known(run)),
        reads_constants=True,
    )


def _if_known(run: Callable[..., Any]) -> Callable[..., Layout]:
    """The function of constants, NaN where one of them varies."""

    def apply(*inputs: Layout) -> Layout:
        values = np.broadcast_arrays(*inputs)
        result = run([torch.from_numpy(np.array(x)) for x in values], {}, {}).numpy()
        return np.where(np.isnan(values).any(axis=0), np.nan, result)

    return apply


def _run_where(x: "list[Tensor]", t: Any, a: Any) -> "Tensor":
    return torch.where(x[0] != 0, x[1], x[2])


def _capture_where(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.combine("where", [a.condition, b.operand(a.self), b.operand(a.other)])


def _capture_prelu(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write max(x, 0) + weight min(x, 0)."""
    weight, rank = a.weight, len(results[0])
    if weight.tensor.numel() > 1:
        weight = b.derived(weight, (-1, *(1,) * (rank - 2)))
    negative = b.add("clamp", [a.self], {"high": 0.0})
    return b.combine("add", [b.add("relu", [a.self]), b.combine("mul", [negative, weight])])


def _write_where(w: "Writer", n: "OnnxNode") -> None:
    condition, *rest = n.inputs
    w.add("Where", [w.add("Cast", [condition], to=9), *rest], n.name)


def _capture_logarithm(base: float) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        return b.multiplied(b.add("log", [a.self]), 1 / math.log(base))

    return capture


COMPARISON = {
    "minimum": _pairwise("minimum", lambda x, t, a: torch.minimum(x[0], x[1]), "Min"),
    "maximum": Operator(
        _shape,
        lambda x, t, a: torch.maximum(x[0], x[1]),
        inputs=(2, 2),
        captured={"maximum": _capture("maximum")},
        onnx="Max",
        channels=Combined(np.maximum),
        reads_constants=True,
    ),
    "pow": _pairwise("pow", lambda x, t, a: torch.pow(x[0], x[1]), "Pow", ("_pow",)),
    **{
        op: _pairwise(op, _compared(run), _write_compared(onnx), names)
        for op, run, onnx, names in (
            ("eq", lambda a, b: a == b, "Equal", ("eq",)),
            ("ne", lambda a, b: a != b, "NotEqual", ("ne",)),
            ("lt", lambda a, b: a < b, "Less", ("lt",)),
            ("le", lambda a, b: a <= b, "LessOrEqual", ("le",)),
            ("gt", lambda a, b: a > b, "Greater", ("gt",)),
            ("ge", lambda a, b: a >= b, "GreaterOrEqual", ("ge",)),
        )
    },
    "where": Operator(
        _shape,
        _run_where,
        inputs=(3, 3),
        captured={
            "where": _capture_where,
            "prelu": _capture_prelu,
            "_prelu_kernel": _capture_prelu,
            "isnan": lambda b, a, results: b.combine("ne", [a.self, a.self]),
            "exp2": lambda b, a, results: b.combine("pow", [b.operand(2), a.self]),
            "log2": _capture_logarithm(2),
            "log10": _capture_logarithm(10),
        },
        onnx=_write_where,
        channels=Combined(_if_known(_run_where)),
        reads_constants=True,
    ),
}
