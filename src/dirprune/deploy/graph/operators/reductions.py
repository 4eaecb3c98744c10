"""Reductions over dimensions of a sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.layouts import Layout, varies_along
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_dim,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.liveness import Rules


def _shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dims = {check_dim(x[0], dim) for dim in attrs["dims"]}
    if len(dims) < len(attrs["dims"]):
        raise ValueError(f"dims {attrs['dims']} repeat")
    if attrs["keepdim"]:
        return tuple(1 if i in dims else size for i, size in enumerate(x[0]))
    return tuple(size for i, size in enumerate(x[0]) if i not in dims)


@dataclass(frozen=True)
class Reduced(Channels):
    """Dimensions that are reduced must be whole.

    Attributes:
        reduce: NumPy's reduction.
    """

    reduce: Callable[..., Any] = np.mean

    def constants(self, known: "ConstantInputs") -> Layout:
        axes = tuple(dim - 1 for dim in known.attrs["dims"])
        x = known.inputs[0]
        shape = [known.shapes[0][i + 1] if i in axes else size for i, size in enumerate(x.shape)]
        full = np.broadcast_to(x, shape)
        return np.asarray(self.reduce(full, axis=axes, keepdims=bool(known.attrs["keepdim"])))

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        dims: Any = node.attrs["dims"]
        axes = tuple(dim - 1 for dim in dims)
        if varies_along(inputs[0], *axes):
            return None
        return np.asarray(inputs[0].min(axis=axes, keepdims=bool(node.attrs["keepdim"])))


def _capture_mean(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.reduce("mean", a.self, getattr(a, "dim", None), getattr(a, "keepdim", False))


def _write_mean(w: "Writer", n: "OnnxNode") -> None:
    axes = w.integers(n.attrs["dims"])
    w.add("ReduceMean", [n.inputs[0], axes], n.name, keepdims=n.attrs["keepdim"])


def _capture(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        return b.reduce(op, a.self, getattr(a, "dim", None), getattr(a, "keepdim", False))

    return capture


def _capture_extreme(op: str, places: str, pair: str) -> Callable[..., Any]:
    """Max and min: of two tensors; of all elements; of a dimension, with places."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        if hasattr(a, "other"):
            return b.combine(pair, [a.self, a.other])
        if not hasattr(a, "dim"):
            return b.reduce(op, a.self, None, False)
        return [
            b.reduce(op, a.self, a.dim, a.keepdim),
            b.reduce_one(places, a.self, a.dim, a.keepdim),
        ]

    return capture


def _capture_variance(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write mean((x - mean(x))^2), with the correction for samples."""
    correction = getattr(a, "correction", None)
    if hasattr(a, "unbiased"):
        correction = int(a.unbiased)
    correction = 1 if correction is None else correction
    over = [a.dim] if isinstance(a.dim, int) else a.dim
    centre = b.reduce("mean", a.self, over, True)
    apart = b.combine("sub", [a.self, centre])
    mean = b.reduce("mean", b.add("mul", [apart, apart]), over, a.keepdim)
    count = prod(b.sizes(a.self)[dim] for dim in over)
    scaled: Value = b.multiplied(mean, count / max(count - correction, 1))
    return scaled


def _capture_with_mean(first: Callable[..., "Value"]) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "list[Value]":
        return [first(b, a, results), b.reduce("mean", a.self, a.dim, a.keepdim)]

    return capture


def _capture_deviation(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.add("sqrt", [_capture_variance(b, a, results)])


def _capture_cdist(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write (sum |x_i - y_j|^p)^(1/p) for all pairs of rows."""
    first = getattr(a, "x1", None)
    x, y = (a.self, a.other) if first is None else (first, a.x2)
    *ahead, rows, width = b.sizes(x)
    x = b.reshape(x, (*ahead, rows, 1, width))
    *ahead, rows, width = b.sizes(y)
    y = b.reshape(y, (*ahead, 1, rows, width))
    p, apart = float(a.p), b.combine("sub", [x, y])
    if p == 2:
        return b.add("sqrt", [b.reduce("sum", b.add("mul", [apart, apart]), -1, False)])
    apart = b.add("abs", [apart])
    if p in (1, np.inf):
        return b.reduce("sum" if p == 1 else "amax", apart, -1, False)
    if p == 0:
        return b.reduce("sum", b.add("sign", [apart]), -1, False)
    total = b.reduce("sum", b.add("power", [apart], {"exponent": p}), -1, False)
    return b.add("power", [total], {"exponent": 1 / p})


def _capture_place(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        return b.reduce_one(op, a.self, a.dim, a.keepdim)

    return capture


def _one_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dim = check_dim(x[0], attrs["dim"])
    return (*x[0][:dim], *((1,) if attrs["keepdim"] else ()), *x[0][dim + 1 :])


def _write(op: str) -> Callable[..., None]:
    def write(w: "Writer", n: "OnnxNode") -> None:
        axes = w.integers(n.attrs["dims"])
        w.add(op, [n.inputs[0], axes], n.name, keepdims=n.attrs["keepdim"])

    return write


def _write_place(op: str) -> Callable[..., None]:
    def write(w: "Writer", n: "OnnxNode") -> None:
        places = w.add(op, n.inputs, axis=n.attrs["dim"], keepdims=n.attrs["keepdim"])
        w.add("Cast", [places], n.name, to=1)

    return write


def _cumsum_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_dim(x[0], attrs["dim"])
    return x[0]


def _write_cumsum(w: "Writer", n: "OnnxNode") -> None:
    axis = w.tensor(np.array(n.attrs["dim"], np.int64), f"{n.name}.axis")
    w.add("CumSum", [n.inputs[0], axis], n.name)


def _prod(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    y = x[0]
    for dim in sorted(a["dims"], reverse=True):
        y = y.prod(dim, bool(a["keepdim"]))
    return y


def _reduction(
    op: str,
    run: Callable[..., Any],
    constants: Callable[..., Any],
    onnx: str,
    more: Mapping[str, Callable[..., Any]],
) -> Operator:
    return Operator(
        _shape,
        run,
        attrs={"dims": "ints", "keepdim": "flag"},
        captured={op: _capture(op), **more},
        onnx=_write(onnx),
        channels=Reduced(constants),
    )


def _place(op: str, run: Callable[..., Any], onnx: str) -> Operator:
    return Operator(
        _one_shape,
        lambda x, t, a: run(x[0], a["dim"], bool(a["keepdim"])).to(x[0].dtype),
        attrs={"dim": "int", "keepdim": "flag"},
        captured={op: _capture_place(op)},
        onnx=_write_place(onnx),
    )


REDUCTIONS = {
    "mean": Operator(
        _shape,
        lambda x, t, a: x[0].mean(a["dims"], bool(a["keepdim"])),
        attrs={"dims": "ints", "keepdim": "flag"},
        captured={
            "mean": _capture_mean,
            "var": _capture_variance,
            "std": _capture_deviation,
            "var_mean": _capture_with_mean(_capture_variance),
            "std_mean": _capture_with_mean(_capture_deviation),
        },
        onnx=_write_mean,
        channels=Reduced(),
    ),
    "sum": _reduction(
        "sum",
        lambda x, t, a: x[0].sum(a["dims"], bool(a["keepdim"])),
        np.sum,
        "ReduceSum",
        {"cdist": _capture_cdist, "_cdist_forward": _capture_cdist},
    ),
    "amax": _reduction(
        "amax",
        lambda x, t, a: x[0].amax(a["dims"], bool(a["keepdim"])),
        np.max,
        "ReduceMax",
        {"max": _capture_extreme("amax", "argmax", "maximum")},
    ),
    "amin": _reduction(
        "amin",
        lambda x, t, a: x[0].amin(a["dims"], bool(a["keepdim"])),
        np.min,
        "ReduceMin",
        {"min": _capture_extreme("amin", "argmin", "minimum")},
    ),
    "prod": _reduction("prod", _prod, np.prod, "ReduceProd", {}),
    "argmax": _place("argmax", lambda x, dim, keep: x.argmax(dim, keep), "ArgMax"),
    "argmin": _place("argmin", lambda x, dim, keep: x.argmin(dim, keep), "ArgMin"),
    "cumsum": Operator(
        _cumsum_shape,
        lambda x, t, a: x[0].cumsum(a["dim"]),
        attrs={"dim": "int"},
        captured={
            "cumsum": lambda b, a, results: b.add(
                "cumsum", [a.self], {"dim": b.axis(a.self, a.dim)}
            )
        },
        onnx=_write_cumsum,
    ),
}
