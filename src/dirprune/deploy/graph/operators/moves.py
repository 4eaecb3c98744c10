"""Operators that move elements about and compute nothing."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.layouts import Layout, joined, reshaped, varies_along
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_dim,
    check_size,
)
from dirprune.deploy.graph.traced_sizes import slice_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.cut import NodeCut
    from dirprune.deploy.shrinking.liveness import Rules


# ---- constants


class _Constant(Channels):
    def constants(self, known: "ConstantInputs") -> Layout:
        return np.asarray(known.own["value"], float)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        return rules.fixed(len(node.shape))  # its reader decides

    def cut(self, change: "NodeCut") -> None:
        for axis, stays in enumerate(change.places):
            if len(stays) > 1:
                change.tensors["value"] = change.tensors["value"].compress(stays, axis)


# ---- joining and slicing


def _cat_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dim = check_dim(x[0], attrs["dim"])
    rests = [shape[:dim] + shape[dim + 1 :] for shape in x]
    if any(rest != rests[0] for rest in rests):
        raise ValueError(f"cannot join {' and '.join(map(str, x))} along dimension {dim}")
    return (*x[0][:dim], sum(shape[dim] for shape in x), *x[0][dim + 1 :])


class _Joined(Channels):
    def constants(self, known: "ConstantInputs") -> Layout:
        dim = known.attrs["dim"]
        return joined(known.inputs, [shape[dim] for shape in known.shapes], dim - 1)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        dim: Any = node.attrs["dim"]
        return joined(inputs, [shape[dim] for shape in shapes], dim - 1)

    def cut(self, change: "NodeCut") -> None:
        change.drop_dead_inputs()


def _capture_cat(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.join(a.tensors, a.dim, results[0])


def _capture_stack(b: "Builder", a: "Arguments", results: Any) -> "Value":
    dim = a.dim % len(results[0])
    size = (*results[0][:dim], 1, *results[0][dim + 1 :])
    return b.join([b.reshape(x, size) for x in a.tensors], dim, results[0])


def _slice_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dim = check_dim(x[0], attrs["dim"])
    start, end, step = attrs["start"], attrs["end"], attrs["step"]
    if not 0 <= start < end <= x[0][dim] or step < 1:
        raise ValueError(f"cannot take {start}:{end}:{step} of {x[0][dim]}")
    return (*x[0][:dim], -(-(end - start) // step), *x[0][dim + 1 :])


def _run_slice(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    return x[0][(slice(None),) * a["dim"] + (slice(a["start"], a["end"], a["step"]),)]


def _write_slice(w: "Writer", n: "OnnxNode") -> None:
    a = n.attrs
    w.slice(n.inputs[0], a["dim"], a["start"], a["end"], a["step"], n.name)


class _Sliced(Channels):
    def constants(self, known: "ConstantInputs") -> Layout:
        return self._take(known.inputs[0], known.attrs)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        attrs: Any = node.attrs
        if attrs["step"] > 1 and varies_along(inputs[0], attrs["dim"] - 1):
            rules.keep(inputs[0], "mixed")
        return self._take(inputs[0], attrs)

    def cut(self, change: "NodeCut") -> None:
        along = change.input_places[0][change.attrs["dim"] - 1]
        if len(along) > 1:
            for edge in ("start", "end"):
                change.attrs[edge] = int(along[: change.attrs[edge]].sum())

    def _take(self, layout: Layout, attrs: Any) -> Layout:
        axis = attrs["dim"] - 1
        if not varies_along(layout, axis):
            return layout
        return layout.take(np.arange(attrs["start"], attrs["end"], attrs["step"]), axis)


def _batches(size: Any) -> int:
    """How many times the batch a number is."""
    if isinstance(size, int) and size == 0:
        return 0
    expression = getattr(size, "expression", None)
    symbols = getattr(expression, "free_symbols", ())
    count = expression / next(iter(symbols)) if len(symbols) == 1 else None
    if count is None or not count.is_Integer:
        raise ValueError("it works along the batch")
    return int(count)


def _capture_slice(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if results[0] == b.sizes(a.self):
        return a.self  # type: ignore[no-any-return]
    if any(isinstance(s, int) and s == 0 for s in results[0]):
        return b.constant_of(torch.zeros([abs(s) for s in results[0]]))  # type: ignore[return-value]
    size = b.sizes(a.self)[a.dim]
    if size < 0:
        start = _batches(a.start or 0)
        return b.take_batches(a.self, a.dim, start, start - results[0][a.dim])
    return b.take(a.self, a.dim, *slice_bounds(a.start, a.end, a.step, size))


def _capture_narrow(b: "Builder", a: "Arguments", results: Any) -> "Value":
    start = a.start % b.sizes(a.self)[a.dim]
    return b.take(a.self, a.dim, start, start + a.length)


def _capture_select(b: "Builder", a: "Arguments", results: Any) -> "Value":
    b.axis(a.self, a.dim)
    index = a.index % b.sizes(a.self)[a.dim]
    return b.reshape(b.take(a.self, a.dim, index, index + 1), results[0])


def _capture_split(b: "Builder", a: "Arguments", results: Any) -> "list[Value]":
    start, parts = 0, []
    if b.sizes(a.self)[a.dim] < 0:
        for shape in results:
            parts.append(b.take_batches(a.self, a.dim, start, start - shape[a.dim]))
            start -= shape[a.dim]
        return parts
    b.axis(a.self, a.dim)
    for shape in results:
        parts.append(b.take(a.self, a.dim, start, start + shape[a.dim]))
        start += shape[a.dim]
    return parts


def _capture_unbind(b: "Builder", a: "Arguments", results: Any) -> "list[Value]":
    b.axis(a.self, a.dim)
    return [b.reshape(b.take(a.self, a.dim, i, i + 1), shape) for i, shape in enumerate(results)]


# ---- other shapes


def _reshape_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    size: Shape = attrs["size"]
    check_size(size[1:])
    if size[0] != -1 or prod(size[1:]) != prod(x[0][1:]):
        raise ValueError(f"cannot make {size} of {x[0]}: the batch stays, as does the number")
    return size


class _Reshaped(Channels):
    def constants(self, known: "ConstantInputs") -> Layout:
        return reshaped(known.inputs[0], known.shapes[0][1:], known.node.shape[1:])

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        return reshaped(inputs[0], shapes[0][1:], node.shape[1:])

    def cut(self, change: "NodeCut") -> None:
        change.attrs["size"] = change.shape


def _capture_reshape(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.reshape(a.x if hasattr(a, "x") else a.self, results[0])  # type: ignore[no-any-return]


def _permute_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dims = attrs["dims"]
    if sorted(dims) != list(range(len(x[0]))) or dims[0] != 0:
        raise ValueError(f"cannot permute {x[0]} by {dims}: the batch stays first")
    return tuple(x[0][dim] for dim in dims)


class _Permuted(Channels):
    def constants(self, known: "ConstantInputs") -> Layout:
        return self._permute(known.inputs[0], known.attrs)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        return self._permute(inputs[0], node.attrs)

    def _permute(self, layout: Layout, attrs: Any) -> Layout:
        return np.transpose(layout, [dim - 1 for dim in attrs["dims"][1:]])


def _capture_transpose(b: "Builder", a: "Arguments", results: Any) -> "Value":
    order = list(range(len(results[0])))
    order[a.dim0], order[a.dim1] = order[a.dim1], order[a.dim0]
    return b.permute(a.self, order)


def _capture_t(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.permute(a.self, list(range(len(results[0])))[::-1])


def _capture_permute(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.permute(a.self, [dim % len(results[0]) for dim in a.dims])


_RESHAPES = ("reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
             "contiguous", "clone", "detach", "alias", "lift_fresh_copy", "_reshape_alias",
             "view_as", "reshape_as")  # fmt: skip

MOVES = {
    "constant": Operator(
        lambda x, t, a: t["value"],
        lambda x, t, a: t["value"],
        inputs=(0, 0),
        tensors=("value",),
        optional_attrs={"trained": "flag"},
        onnx=lambda w, n: w.alias(n, n.tensors["value"]),
        channels=_Constant(),
    ),
    "cat": Operator(
        _cat_shape,
        lambda x, t, a: torch.cat(x, a["dim"]),
        inputs=(1, 255),
        attrs={"dim": "int"},
        captured={"cat": _capture_cat, "concat": _capture_cat, "stack": _capture_stack},
        onnx=lambda w, n: w.add("Concat", n.inputs, n.name, axis=n.attrs["dim"]),
        channels=_Joined(),
    ),
    "slice": Operator(
        _slice_shape,
        _run_slice,
        attrs={"dim": "int", "start": "int", "end": "int", "step": "int"},
        captured={
            "slice": _capture_slice,
            "narrow": _capture_narrow,
            "select": _capture_select,
            "unbind": _capture_unbind,
            **dict.fromkeys(
                ("chunk", "split", "split_with_sizes", "tensor_split"), _capture_split
            ),
        },
        onnx=_write_slice,
        channels=_Sliced(),
    ),
    "reshape": Operator(
        _reshape_shape,
        lambda x, t, a: x[0].reshape(x[0].shape[0], *a["size"][1:]),
        attrs={"size": "ints"},
        captured=dict.fromkeys(_RESHAPES, _capture_reshape),
        onnx=lambda w, n: w.add("Reshape", [n.inputs[0], w.integers(n.attrs["size"])], n.name),
        channels=_Reshaped(),
    ),
    "permute": Operator(
        _permute_shape,
        lambda x, t, a: x[0].permute(a["dims"]),
        attrs={"dims": "ints"},
        captured={
            "permute": _capture_permute,
            "transpose": _capture_transpose,
            "swapaxes": _capture_transpose,
            "t": _capture_t,
        },
        onnx=lambda w, n: w.add("Transpose", n.inputs, n.name, perm=n.attrs["dims"]),
        channels=_Permuted(),
    ),
}
