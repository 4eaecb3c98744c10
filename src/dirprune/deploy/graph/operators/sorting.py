"""Sorting along a dimension, as torch does: stable, NaN as the largest."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_dim(x[0], attrs["dim"])
    return x[0]


def _run(part: int) -> Callable[..., "Tensor"]:
    def run(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
        found = x[0].sort(dim=a["dim"], descending=bool(a["descending"]), stable=True)
        return found[part].to(x[0].dtype)

    return run


def sorted_pair(b: "Builder", x: "Value", dim: int, descending: bool) -> "list[Value]":
    """Write both a sorted value and the places that its elements had."""
    attrs = {"dim": b.axis(x, dim), "descending": int(descending)}
    return [b.add(op, [x], attrs) for op in ("sort", "argsort")]


def _capture_sort(b: "Builder", a: "Arguments", results: Any) -> "list[Value]":
    return sorted_pair(b, a.self, a.dim, a.descending)


def _capture_argsort(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return sorted_pair(b, a.self, a.dim, a.descending)[1]


def _capture_topk(b: "Builder", a: "Arguments", results: Any) -> "list[Value]":
    return [b.take(x, a.dim, 0, a.k) for x in sorted_pair(b, a.self, a.dim, a.largest)]


def _capture_place(place: Callable[["Arguments", int], int]) -> Callable[..., Any]:
    """Values and places of one rank, counted from the smallest."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> "list[Value]":
        if not hasattr(a, "dim"):
            raise ValueError("it reduces over the batch")
        at = place(a, b.sizes(a.self)[a.dim])
        pair = sorted_pair(b, a.self, a.dim, False)
        return [b.reshape(b.take(x, a.dim, at, at + 1), results[0]) for x in pair]

    return capture


def _write(part: int) -> Callable[..., None]:
    def write(w: "Writer", n: "OnnxNode") -> None:
        dim = n.attrs["dim"]
        names = [f"{n.name}.values" if part else n.name, f"{n.name}.places"]
        w.add_several("TopK", [n.inputs[0], w.integers([n.shape[dim]])], names, axis=dim,
                      largest=n.attrs["descending"], sorted=1)  # fmt: skip
        if part == 1:
            w.add("Cast", [names[1]], n.name, to=1)

    return write


_ATTRS = {"dim": "int", "descending": "flag"}

SORTING = {
    "sort": Operator(
        _shape,
        _run(0),
        attrs=_ATTRS,
        captured={
            "sort": _capture_sort,
            "topk": _capture_topk,
            "median": _capture_place(lambda a, size: (size - 1) // 2),
            "kthvalue": _capture_place(lambda a, size: a.k - 1),
        },
        onnx=_write(0),
    ),
    "argsort": Operator(
        _shape, _run(1), attrs=_ATTRS, captured={"argsort": _capture_argsort}, onnx=_write(1)
    ),
}
