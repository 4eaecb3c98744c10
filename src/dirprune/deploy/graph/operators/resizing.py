"""Padding and resizing of maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Spatial
from dirprune.deploy.graph.operators.indexing import take_places
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.graph.operators.lazy_torch import F, torch
from dirprune.deploy.graph.operators.pooling import map_shape
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
)
from dirprune.deploy.graph.traced_sizes import is_finite, varies
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _pad_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_rank(x[0], 4)
    top, bottom, left, right = attrs["padding"]
    if any(p < 0 for p in attrs["padding"]):
        raise ValueError(f"padding {attrs['padding']} must be at least 0")
    return (-1, x[0][1], x[0][2] + top + bottom, x[0][3] + left + right)


def _run_pad(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    top, bottom, left, right = a["padding"]
    return F.pad(x[0], (left, right, top, bottom), value=a["value"])


_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _capture_pad(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write ``pad`` for constant padding of maps, otherwise one node per padded dimension."""
    mode = getattr(a, "mode", "constant")
    if all(p == 0 for p in a.pad):
        return a.self  # type: ignore[no-any-return]
    rank = len(results[0])
    if (
        mode == "constant"
        and rank >= 3
        and all(p == 0 for p in a.pad[4:])
        and all(p >= 0 for p in a.pad)
        and is_finite(a.value or 0)
    ):
        left, right, top, bottom = [*a.pad, 0, 0][:4]
        attrs: Any = {"padding": (top, bottom, left, right), "value": float(a.value or 0)}
        return b.map(a.self, lambda x: b.add("pad", [x], attrs))
    x: Value = a.self
    for i, (low, high) in enumerate(zip(a.pad[::2], a.pad[1::2])):
        dim, sizes = rank - 1 - i, b.sizes(x)
        if low < 0 or high < 0:
            x = b.take(x, dim, max(-low, 0), sizes[dim] - max(-high, 0))
            low, high, sizes = max(low, 0), max(high, 0), b.sizes(x)
        if (low, high) == (0, 0):
            continue
        if mode != "constant":
            x = _mirrored(b, x, dim, low, high, mode)
            continue
        parts = [x]
        for width, at in ((low, 0), (high, 2)):
            if width != 0:
                side = b.filled(float(a.value or 0), (*sizes[:dim], width, *sizes[dim + 1 :]))
                parts.insert(at, side)
        x = b.join(parts, dim, results[0])
    return x


def _mirrored(b: "Builder", x: "Value", dim: int, low: int, high: int, mode: str) -> "Value":
    """Pad by elements of the dimension itself; where its size varies, one by one."""
    size = b.sizes(x)[dim]
    if not varies(size):
        how: Any = _MODES[mode]
        return take_places(b, x, dim, torch.from_numpy(np.pad(np.arange(size), (low, high), how)))
    ahead, behind = {
        "reflect": ([low - i for i in range(low)], [size - 2 - i for i in range(high)]),
        "replicate": ([0] * low, [size - 1] * high),
        "circular": ([size - low + i for i in range(low)], list(range(high))),
    }[mode]
    before, after = ([b.take(x, dim, p, p + 1) for p in places] for places in (ahead, behind))
    return b.join([*before, x, *after], dim, b.sizes(x))


def _is_whole(b: "Builder", a: "Arguments", results: Any) -> bool:
    """Whether torch samples by the ratio of the sizes: not where a factor gives another one."""
    pairs = zip(b.sizes(a.input)[2:], results[0][2:], a.scale_factors or (1, 1))
    return not a.scale_factors or all(old * factor == new for old, new, factor in pairs)


def _capture_nearest(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if not _is_whole(b, a, results):
        return _resample(b, a, results, "nearest")
    size = tuple(results[0][2:])
    return b.map(a.input, lambda x: b.add("upsample_nearest", [x], {"output": size}))


def _capture_bilinear(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if not _is_whole(b, a, results):
        return _resample(b, a, results, "bilinear")
    size = tuple(results[0][2:])
    attrs: Any = {"output": size, "align_corners": int(a.align_corners)}
    return b.map(a.input, lambda x: b.add("upsample_bilinear", [x], attrs))


def _capture_resample(mode: str, antialias: bool = False) -> Any:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        return _resample(b, a, results, mode, antialias)

    return capture


def _resample(
    b: "Builder", a: "Arguments", results: Any, mode: str, antialias: bool = False
) -> "Value":
    """Resample along each dimension by a matrix, which torch makes of unit vectors."""
    x = b.as_value(a.input)
    more = {} if mode.startswith("nearest") else {"align_corners": bool(a.align_corners)}
    if antialias:
        more["antialias"] = True
    rank = len(results[0])
    for dim in range(rank - 1, 1, -1):
        size = b.sizes(x)[dim]
        b.axis(x, dim)
        units = torch.eye(size)[None, :, None]
        if a.scale_factors:
            how: Any = {"scale_factor": (1.0, float(a.scale_factors[dim - 2]))}
        else:
            how = {"size": (1, results[0][dim])}
        matrix = F.interpolate(units, mode=mode, **how, **more)[0, :, 0].t()
        order = list(range(rank))
        order[dim], order[-1] = order[-1], order[dim]
        tensors = {"weight": Constant(matrix.contiguous())}
        x = b.permute(b.add("linear", [b.permute(x, order)], {}, tensors), order)
    return x


def _write_nearest(w: "Writer", n: "OnnxNode") -> None:
    """Resize by whole factors; else gather, because runtimes round the places differently."""
    after = n.attrs["output"]
    if all(new % old == 0 for new, old in zip(after, n.shape[2:])):
        w.resize(n.inputs[0], after, n.name, mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric")  # fmt: skip
        return
    x = n.inputs[0]
    for axis, old, new in zip((2, 3), n.shape[2:], after):
        if varies((old, new)):
            places = _nearest_places(w, old, new)
            x = w.add("Gather", [x, places], n.name if axis == 3 else "", axis=axis)
            continue
        scale = np.float32(old) / np.float32(new)
        places = np.floor(np.arange(new, dtype=np.float32) * scale).astype(np.int64)
        places = w.integers(np.minimum(places, old - 1).tolist())
        x = w.add("Gather", [x, places], n.name if axis == 3 else "", axis=axis)


def _nearest_places(w: "Writer", old: Any, new: Any) -> str:
    """The same places, computed from sizes."""
    before, after, places = (
        w.add("Cast", [x], to=1) for x in (w.integers([old]), w.integers([new]), w.range(new))
    )
    scaled = w.add("Mul", [places, w.add("Div", [before, after])])
    rounded = w.add("Cast", [w.add("Floor", [scaled])], to=7)
    return w.add("Min", [rounded, w.integers([old - 1])])


def _write_bilinear(w: "Writer", n: "OnnxNode") -> None:
    corners = "align_corners" if n.attrs["align_corners"] else "half_pixel"
    w.resize(n.inputs[0], n.attrs["output"], n.name, mode="linear",
             coordinate_transformation_mode=corners)  # fmt: skip


def _run_bilinear(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    corners = bool(a["align_corners"])
    return F.interpolate(x[0], a["output"], mode="bilinear", align_corners=corners)


def _padding_is_unchanged(held: Layout, attrs: Attributes) -> Any:
    return (held == attrs["value"]) | (not any(attrs["padding"]))


RESIZING = {
    "pad": Operator(
        _pad_shape,
        _run_pad,
        attrs={"padding": "four", "value": "float"},
        captured={"pad": _capture_pad, "constant_pad_nd": _capture_pad},
        onnx=lambda w, n: w.pad(n.inputs[0], n.attrs["padding"], n.attrs["value"], n.name),
        channels=Spatial(_padding_is_unchanged),
    ),
    "upsample_nearest": Operator(
        map_shape,
        lambda x, t, a: F.interpolate(x[0], a["output"], mode="nearest"),
        attrs={"output": "pair"},
        captured={
            "upsample_nearest2d": _capture_nearest,
            "upsample_nearest1d": _capture_resample("nearest"),
            "upsample_nearest3d": _capture_resample("nearest"),
            **dict.fromkeys(
                (f"_upsample_nearest_exact{dims}d" for dims in (1, 2, 3)),
                _capture_resample("nearest-exact"),
            ),
        },
        onnx=_write_nearest,
        channels=Spatial(),
    ),
    "upsample_bilinear": Operator(
        map_shape,
        _run_bilinear,
        attrs={"output": "pair", "align_corners": "flag"},
        captured={
            "upsample_bilinear2d": _capture_bilinear,
            "upsample_linear1d": _capture_resample("bilinear"),
            "upsample_trilinear3d": _capture_resample("bilinear"),
            "upsample_bicubic2d": _capture_resample("bicubic"),
            "_upsample_bilinear2d_aa": _capture_resample("bilinear", antialias=True),
            "_upsample_bicubic2d_aa": _capture_resample("bicubic", antialias=True),
        },
        onnx=_write_bilinear,
        channels=Spatial(),
    ),
}
