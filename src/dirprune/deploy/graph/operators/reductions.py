"""Reductions over dimensions of a sample."""

from collections.abc import Sequence
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
    from dirprune.deploy.graph.builder import Arguments, Builder, Value
    from dirprune.deploy.graph.graph import Node
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


class Reduced(Channels):
    """Dimensions that are reduced must be whole."""

    def constants(self, known: "ConstantInputs") -> Layout:
        axes = tuple(dim - 1 for dim in known.attrs["dims"])
        keep = bool(known.attrs["keepdim"])
        return np.asarray(known.inputs[0].mean(axis=axes, keepdims=keep))

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


REDUCTIONS = {
    "mean": Operator(
        _shape,
        lambda x, t, a: x[0].mean(a["dims"], bool(a["keepdim"])),
        attrs={"dims": "ints", "keepdim": "flag"},
        captured={"mean": _capture_mean},
        onnx=_write_mean,
        channels=Reduced(),
    ),
}
