"""Convolution and pooling of volumes, which the engine computes as maps."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.convolution import (
    convolution_shape,
    side_paddings,
    triple,
    write_convolution,
)
from dirprune.deploy.graph.operators.lazy_torch import F, torch
from dirprune.deploy.graph.operators.record import Attributes, Operator, Shape, TensorShapes
from dirprune.deploy.graph.values import Value, plain_dims

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.lowering import Lowering
    from dirprune.deploy.graph.values import Arguments, Constant


def _conv3d_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Mapping[str, Any]) -> Shape:
    if len(attrs["stride"]) != 3:
        raise ValueError(f"needs three strides, got {attrs['stride']}")
    return convolution_shape(
        x[0], tensors, attrs["groups"], attrs["stride"], attrs["padding"], attrs["dilation"]
    )


def _run_conv3d(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Attributes) -> "Tensor":
    front, back, top, bottom, left, right = a["padding"]
    y = F.pad(x[0], (left, right, top, bottom, front, back))
    return F.conv3d(y, t["weight"], t.get("bias"), a["stride"], 0, a["dilation"], a["groups"])


def _capture_conv3d(b: "Builder", a: "Arguments", results: Any) -> "Value":
    dilation = triple(a.dilation)
    padding = side_paddings(a.padding, b.sizes(a.weight)[2:], dilation)
    attrs: Any = {"stride": triple(a.stride), "padding": padding, "dilation": dilation,
                  "groups": a.groups}  # fmt: skip
    tensors = {"weight": a.weight, "bias": a.bias}
    if b.sizes(a.input)[0] < -1:
        return _convolve_each_volume(b, a.input, attrs, tensors)
    return b.add("conv3d", [b.plain(a.input)], attrs, tensors)


def _convolve_each_volume(
    b: "Builder", x: "Value", attrs: Mapping[str, Any], tensors: "Mapping[str, Constant]"
) -> "Value":
    """Several volumes of each sample: convolved in turn, or as more groups of small filters."""
    count, shape, dims = b.maps_of_each_sample(x), b.graph_shape(x), x.dims
    ahead, channels = shape[: len(dims[0])], shape[len(dims[0])]
    y = b.reshape(Value(x.number, plain_dims(len(shape))), (-1, count * channels, *shape[-3:]))
    if b.sizes(tensors["weight"])[1] == 1:
        repeated = {role: c and b.constant_of(torch.cat([c.tensor] * count))
                    for role, c in tensors.items()}  # fmt: skip
        y = b.add("conv3d", [y], {**attrs, "groups": count * attrs["groups"]}, repeated)
    else:
        starts = range(0, count * channels, channels)
        parts = [b.take(y, 1, start, start + channels) for start in starts]
        parts = [b.add("conv3d", [part], attrs, tensors) for part in parts]
        y = b.add("cat", parts, {"dim": 1})
    sizes = b.sizes(y)
    y = b.reshape(y, (*ahead, sizes[1] // count, *sizes[2:]))
    return Value(y.number, dims)


def _lower_conv3d(lowering: "Lowering", node: "Node") -> int:
    """Every place along the depth as a group of one convolution of maps.

    The channels of a group are those of the input at the depths that the window covers.
    """
    a: Mapping[str, Any] = node.attrs
    value, groups, padding = node.inputs[0], a["groups"], a["padding"]
    _, channels, depth, height, width = lowering.shape(value)
    outputs, own, taps, *kernel = lowering.tensor(node, "weight").shape
    deep = node.shape[2]
    x = lowering.add("reshape", [value], {"size": (-1, channels, depth, height * width)})
    if any(padding[:2]):
        x = lowering.add("pad", [x], {"padding": (*padding[:2], 0, 0), "value": 0.0})
    starts = np.arange(deep)[:, None] * a["stride"][0]
    places = (starts + np.arange(taps) * a["dilation"][0]).ravel().astype(np.float32)
    x = lowering.add("take", [x], {"dim": 2}, {"index": places})
    parts = (-1, groups, own, deep, taps * height * width)
    x = lowering.add("reshape", [x], {"size": parts})
    x = lowering.add("permute", [x], {"dims": (0, 3, 1, 2, 4)})
    size = (-1, deep * groups * own * taps, height, width)
    x = lowering.add("reshape", [x], {"size": size})
    weight = lowering.tensor(node, "weight").reshape(outputs, own * taps, *kernel)
    tensors = {"weight": np.tile(weight, (deep, 1, 1, 1))}
    if "bias" in node.tensors:
        tensors["bias"] = np.tile(lowering.tensor(node, "bias"), deep)
    attrs = {"stride": a["stride"][1:], "padding": padding[2:], "dilation": a["dilation"][1:],
             "groups": deep * groups}  # fmt: skip
    y = lowering.add("conv2d", [x], attrs, tensors)
    y = lowering.add("reshape", [y], {"size": (-1, deep, outputs, *node.shape[3:])})
    return lowering.add("permute", [y], {"dims": (0, 2, 1, 3, 4)})


def _along_depth(
    b: "Builder", x: "Value", maps: Callable[..., Any], depth: Callable[..., Any]
) -> "Value":
    """Apply one function to (height, width), and one to (depth, height x width)."""
    y = b.map(x, maps)
    *ahead, deep, high, wide = b.sizes(y)
    y = b.map(b.reshape(y, (*ahead, deep, high * wide)), depth)
    return b.reshape(y, (*ahead, b.sizes(y)[-2], high, wide))


def _capture_pool(op: str) -> Callable[..., Any]:
    """A window is a product of intervals: pool the maps, then along the depth."""

    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        kernel, divisor = triple(a.kernel_size), getattr(a, "divisor_override", None)
        if divisor is not None and a.ceil_mode:
            raise ValueError("it overrides the divisor of windows that hang over the edge")
        every = {"kernel": kernel, "stride": triple(a.stride) if a.stride else kernel,
                 "padding": triple(a.padding)}  # fmt: skip
        flags: dict[str, Any] = {"ceil_mode": int(a.ceil_mode)}
        if op == "avg_pool2d":
            flags["count_include_pad"] = int(a.count_include_pad or divisor is not None)
        else:
            every["dilation"] = triple(a.dilation)
        maps = {key: values[1:] for key, values in every.items()}
        depth = {key: (values[0], int(key != "padding")) for key, values in every.items()}
        y = _along_depth(
            b,
            a.self,
            lambda x: b.add(op, [x], {**maps, **flags}),
            lambda x: b.add(op, [x], {**depth, **flags}),
        )
        return y if divisor is None else b.multiplied(y, prod(kernel) / divisor)

    return capture


def _capture_adaptive(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        deep, high, wide = results[0][-3:]
        return _along_depth(
            b,
            a.self,
            lambda x: b.add(op, [x], {"output": (high, wide)}),
            lambda x: b.add(op, [x], {"output": (deep, high * wide)}),
        )

    return capture


def _without_indices(capture: Callable[..., Any]) -> Callable[..., Any]:
    return lambda b, a, results: [capture(b, a, results), None]


VOLUMES = {
    "conv3d": Operator(
        _conv3d_shape,
        _run_conv3d,
        tensors=("weight",),
        optional_tensors=("bias",),
        attrs={"stride": "ints", "padding": "ints", "dilation": "ints", "groups": "int"},
        captured={
            "conv3d": _capture_conv3d,
            "max_pool3d": _capture_pool("max_pool2d"),
            "max_pool3d_with_indices": _without_indices(_capture_pool("max_pool2d")),
            "avg_pool3d": _capture_pool("avg_pool2d"),
            "adaptive_avg_pool3d": _capture_adaptive("adaptive_avg_pool2d"),
            "_adaptive_avg_pool3d": _capture_adaptive("adaptive_avg_pool2d"),
            "adaptive_max_pool3d": _without_indices(_capture_adaptive("adaptive_max_pool2d")),
        },
        onnx=write_convolution,
        lower=_lower_conv3d,
    ),
}
