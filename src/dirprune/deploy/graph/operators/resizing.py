"""Padding and resizing of maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Spatial
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.graph.operators.lazy_torch import F
from dirprune.deploy.graph.operators.pooling import map_shape
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Arguments, Builder, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _pad_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_rank(x[0], 4)
    top, bottom, left, right = attrs["padding"]
    if min(attrs["padding"]) < 0:
        raise ValueError(f"padding {attrs['padding']} must be at least 0")
    return (-1, x[0][1], x[0][2] + top + bottom, x[0][3] + left + right)


def _run_pad(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    top, bottom, left, right = a["padding"]
    return F.pad(x[0], (left, right, top, bottom), value=a["value"])


def _capture_pad(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if getattr(a, "mode", "constant") != "constant":
        raise ValueError(f"pads by {a.mode}: only a constant is known")
    left, right, top, bottom, *rest = [*a.pad, 0, 0, 0, 0][: max(4, len(a.pad))]
    if any(rest):
        raise ValueError("pads channels or the batch")
    if not any(a.pad):
        return a.self  # type: ignore[no-any-return]
    attrs: Any = {"padding": (top, bottom, left, right), "value": float(a.value or 0)}
    return b.map(a.self, lambda x: b.add("pad", [x], attrs))


def _size(b: "Builder", a: "Arguments", results: Any) -> tuple[int, ...]:
    """The size of the result; a factor that does not give it exactly would sample elsewhere."""
    before, after = b.sizes(a.input)[2:], tuple(results[0][2:])
    factors = a.scale_factors or [n / m for n, m in zip(after, before)]
    if any(m * factor != n for m, n, factor in zip(before, after, factors) if a.scale_factors):
        raise ValueError(f"scales {before} by {factors}, which is not whole: give a size instead")
    return after


def _capture_nearest(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.add("upsample_nearest", [b.plain(a.input)], {"output": _size(b, a, results)})


def _capture_bilinear(b: "Builder", a: "Arguments", results: Any) -> "Value":
    attrs: Any = {"output": _size(b, a, results), "align_corners": int(a.align_corners)}
    return b.add("upsample_bilinear", [b.plain(a.input)], attrs)


def _write_nearest(w: "Writer", n: "OnnxNode") -> None:
    """Resize by whole factors; else gather, because runtimes round the places differently."""
    after = n.attrs["output"]
    if all(new % old == 0 for new, old in zip(after, n.shape[2:])):
        w.resize(n.inputs[0], after, n.name, mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric")  # fmt: skip
        return
    x = n.inputs[0]
    for axis, old, new in zip((2, 3), n.shape[2:], after):
        scale = np.float32(old) / np.float32(new)
        places = np.floor(np.arange(new, dtype=np.float32) * scale).astype(np.int64)
        places = w.integers(np.minimum(places, old - 1).tolist())
        x = w.add("Gather", [x, places], n.name if axis == 3 else "", axis=axis)


def _write_bilinear(w: "Writer", n: "OnnxNode") -> None:
    corners = "align_corners" if n.attrs["align_corners"] else "half_pixel"
    w.resize(n.inputs[0], n.attrs["output"], n.name, mode="linear",
             coordinate_transformation_mode=corners)  # fmt: skip


def _run_bilinear(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    corners = bool(a["align_corners"])
    return F.interpolate(x[0], a["output"], mode="bilinear", align_corners=corners)


def _padding_keeps(held: Layout, attrs: Attributes) -> Any:
    return (held == attrs["value"]) | (not any(attrs["padding"]))


RESIZING = {
    "pad": Operator(
        _pad_shape,
        _run_pad,
        attrs={"padding": "four", "value": "float"},
        captured={"pad": _capture_pad, "constant_pad_nd": _capture_pad},
        onnx=lambda w, n: w.pad(n.inputs[0], n.attrs["padding"], n.attrs["value"], n.name),
        channels=Spatial(_padding_keeps),
    ),
    "upsample_nearest": Operator(
        map_shape,
        lambda x, t, a: F.interpolate(x[0], a["output"], mode="nearest"),
        attrs={"output": "pair"},
        captured={"upsample_nearest2d": _capture_nearest},
        onnx=_write_nearest,
        channels=Spatial(),
    ),
    "upsample_bilinear": Operator(
        map_shape,
        _run_bilinear,
        attrs={"output": "pair", "align_corners": "flag"},
        captured={"upsample_bilinear2d": _capture_bilinear},
        onnx=_write_bilinear,
        channels=Spatial(),
    ),
}
