"""Convolutions that the engine computes as two-dimensional ones: of sequences, and transposed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.convolution import (
    convolution_shape,
    pair,
    side_paddings,
    triple,
)
from dirprune.deploy.graph.operators.lazy_torch import F
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
    check_vectors,
)
from dirprune.deploy.graph.operators.sample_filters import (
    convolve_samples,
    convolve_samples_transposed,
    has_own_filters,
)
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.lowering import Lowering
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _conv1d_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Mapping[str, Any]) -> Shape:
    stride, dilation = (attrs["stride"],), (attrs["dilation"],)
    return convolution_shape(x[0], tensors, attrs["groups"], stride, attrs["padding"], dilation)


def _run_conv1d(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Attributes) -> "Tensor":
    y = F.pad(x[0], a["padding"])
    return F.conv1d(y, t["weight"], t.get("bias"), a["stride"], 0, a["dilation"], a["groups"])


def _capture_conv1d(b: "Builder", a: "Arguments", results: Any) -> "Value":
    dilation, stride = pair(a.dilation)[0], pair(a.stride)[0]
    padding = side_paddings(a.padding, b.sizes(a.weight)[2:], (dilation,))
    if has_own_filters(b, a):
        return convolve_samples(b, a, results[0], (stride,), padding, (dilation,))
    attrs: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation,
                             "groups": a.groups}  # fmt: skip
    if b.sizes(a.input)[0] < -1:
        maps = {"stride": (1, stride), "padding": (0, 0, *padding), "dilation": (1, dilation),
                "groups": a.groups}  # fmt: skip
        sizes = b.sizes(a.weight)
        tensors = {"weight": b.reshape(a.weight, (*sizes[:2], 1, *sizes[2:])), "bias": a.bias}
        return b.each_map(a.input, lambda x: b.add("conv2d", [x], maps, tensors))
    return b.add("conv1d", [b.plain(a.input)], attrs, {"weight": a.weight, "bias": a.bias})


def _write_conv1d(w: "Writer", n: "OnnxNode") -> None:
    a = n.attrs
    w.add("Conv", n.weighted_inputs, n.name, pads=a["padding"], strides=[a["stride"]],
          dilations=[a["dilation"]], group=a["groups"])  # fmt: skip


def _lower_conv1d(lowering: "Lowering", node: "Node") -> int:
    """The same on maps of height 1."""
    a: Mapping[str, Any] = node.attrs
    value = node.inputs[0]
    _, channels, length = lowering.shape(value)
    x = lowering.add("reshape", [value], {"size": (-1, channels, 1, length)})
    tensors = {role: lowering.tensor(node, role) for role in node.tensors}
    tensors["weight"] = tensors["weight"][:, :, None]
    attrs = {"stride": (1, a["stride"]), "padding": (0, 0, *a["padding"]),
             "dilation": (1, a["dilation"]), "groups": a["groups"]}  # fmt: skip
    y = lowering.add("conv2d", [x], attrs, tensors)
    return lowering.add("reshape", [y], {"size": node.shape})


def _transposed_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    weight, groups = tensors["weight"], attrs["groups"]
    check_rank(x[0], 4)
    check_rank(weight, 4)
    if groups < 1 or weight[0] % groups or x[0][1] != weight[0]:
        raise ValueError(f"a weight {weight} in {groups} groups does not fit {x[0][1]} channels")
    check_vectors(tensors, {"bias": weight[1] * groups})
    sizes = []
    for i in range(2):
        stride, dilation = attrs["stride"][i], attrs["dilation"][i]
        padding, more = attrs["padding"][i], attrs["output_padding"][i]
        if min(stride, dilation) < 1 or not 0 <= more < max(stride, dilation):
            raise ValueError("stride and dilation must be at least 1, output_padding below them")
        span = dilation * (weight[2 + i] - 1)
        if not 0 <= padding <= span:
            raise ValueError(f"padding {padding} is more than the window of {span + 1} less one")
        sizes.append((x[0][2 + i] - 1) * stride - 2 * padding + span + more + 1)
    return (-1, weight[1] * groups, *sizes)


def _run_transposed(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Attributes) -> "Tensor":
    return F.conv_transpose2d(
        x[0], t["weight"], t.get("bias"), a["stride"], a["padding"], a["output_padding"],
        a["groups"], a["dilation"],
    )  # fmt: skip


def _capture_transposed(b: "Builder", a: "Arguments", results: Any) -> "Value":
    attrs = {key: pair(getattr(a, key)) for key in ("stride", "padding", "output_padding",
                                                    "dilation")}  # fmt: skip
    if has_own_filters(b, a):
        return convolve_samples_transposed(b, a, results[0])
    if b.sizes(a.input)[0] < -1:
        return b.each_map(a.input, lambda x: _transpose_each_map(b, a, x, attrs))
    return _cropped(
        b, b.plain(a.input), {**attrs, "groups": a.groups}, a.weight, a.bias, results[0]
    )


def _cropped(
    b: "Builder", x: "Value", attrs: dict[str, Any], weight: Any, bias: Any, sizes: Shape
) -> "Value":
    """A transposed convolution; padding that is larger than the window is cut off afterwards."""
    kernel = b.sizes(weight)[2:]
    spans = [d * (k - 1) for d, k in zip(attrs["dilation"], kernel)]
    excess = [max(p - span, 0) for p, span in zip(attrs["padding"], spans)]
    attrs["padding"] = tuple(p - e for p, e in zip(attrs["padding"], excess))
    y = b.add("conv_transpose2d", [x], attrs, {"weight": weight, "bias": bias})
    for dim, start in zip((2, 3), excess):
        if start:
            y = b.take(y, dim, start, start + sizes[dim])
    return y


def _capture_transposed_volume(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """A convolution of the volume with zeros between its elements, by the mirrored window."""
    x, groups = b.plain(a.input), a.groups
    stride, padding, more, dilation = (
        triple(getattr(a, key)) for key in ("stride", "padding", "output_padding", "dilation")
    )
    inputs, outputs, *kernel = a.weight.tensor.shape
    weight = a.weight.tensor.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    weight = weight.flip(-1, -2, -3).reshape(groups * outputs, inputs // groups, *kernel)
    sides: list[int] = []
    for i in range(3):
        dim, sizes = 2 + i, b.sizes(x)
        if stride[i] > 1:
            ahead, size, after = sizes[:dim], sizes[dim], sizes[dim + 1 :]
            wide = (*ahead, size, stride[i], *after)
            zeros = b.filled(0.0, (*ahead, size, stride[i] - 1, *after))
            x = b.join([b.reshape(x, (*ahead, size, 1, *after)), zeros], dim + 1, wide)
            x = b.reshape(x, (*ahead, size * stride[i], *after))
            x = b.take(x, dim, 0, (size - 1) * stride[i] + 1)
        low = dilation[i] * (kernel[i] - 1) - padding[i]
        high = low + more[i]
        x = b.take(x, dim, max(-low, 0), b.sizes(x)[dim] - max(-high, 0))
        sides += [max(low, 0), max(high, 0)]
    attrs: Any = {"stride": (1, 1, 1), "padding": tuple(sides), "dilation": dilation,
                  "groups": groups}  # fmt: skip
    tensors = {"weight": Constant(weight.contiguous()), "bias": a.bias}
    return b.add("conv3d", [x], attrs, tensors)


def _transpose_each_map(
    b: "Builder", a: "Arguments", x: "Value", attrs: Mapping[str, Any]
) -> "Value":
    """Several maps of each sample are a volume's depth."""
    sizes = a.weight.tensor.shape
    first = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
    own = {key: (first[key], *attrs[key]) for key in first}
    weight = b.derived(a.weight, (*sizes[:2], 1, *sizes[2:]))
    every = {**vars(a), **own, "input": x, "weight": weight}
    return _capture_transposed_volume(b, type(a)(**every), None)


def _capture_transposed_sequence(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Sequences as maps of height 1."""
    own: dict[str, Any] = {
        key: (first, pair(getattr(a, key))[0])
        for key, first in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    }
    for key, x in (("input", a.input), ("weight", a.weight)):
        rows, channels, length = b.sizes(x)
        own[key] = b.reshape(x, (rows, channels, 1, length))
    wide = (*results[0][:2], 1, results[0][2])
    y = _capture_transposed(b, type(a)(**{**vars(a), **own}), [wide])
    return b.reshape(y, results[0])


def _write_transposed(w: "Writer", n: "OnnxNode") -> None:
    a = n.attrs
    w.add("ConvTranspose", n.weighted_inputs, n.name, pads=[*a["padding"], *a["padding"]],
          strides=a["stride"], dilations=a["dilation"], output_padding=a["output_padding"],
          group=a["groups"])  # fmt: skip


def _lower_transposed(lowering: "Lowering", node: "Node") -> int:
    """A convolution of the input with zeros between its pixels, by the mirrored window."""
    a: Mapping[str, Any] = node.attrs
    groups = a["groups"]
    tensors = {role: lowering.tensor(node, role) for role in node.tensors}
    inputs, outputs, *kernel = tensors["weight"].shape
    weight = tensors["weight"].reshape(groups, inputs // groups, outputs, *kernel)
    mirrored = weight.swapaxes(1, 2)[..., ::-1, ::-1]
    tensors["weight"] = np.ascontiguousarray(
        mirrored.reshape(groups * outputs, inputs // groups, *kernel)
    )
    x = node.inputs[0]
    if a["stride"] != (1, 1):
        x = lowering.add("dilate", [x], {"stride": a["stride"]})
    low = [a["dilation"][i] * (kernel[i] - 1) - a["padding"][i] for i in range(2)]
    high = [low[i] + a["output_padding"][i] for i in range(2)]
    attrs = {"stride": (1, 1), "padding": (low[0], high[0], low[1], high[1]),
             "dilation": a["dilation"], "groups": groups}  # fmt: skip
    return lowering.add("conv2d", [x], attrs, tensors)


def _dilated(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_rank(x[0], 4)
    if min(attrs["stride"]) < 1:
        raise ValueError("stride must be at least 1")
    sizes = [(size - 1) * stride + 1 for size, stride in zip(x[0][2:], attrs["stride"])]
    return (-1, x[0][1], *sizes)


def _run_dilate(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    batch, channels, height, width = x[0].shape
    down, right = a["stride"]
    y = x[0].new_zeros(batch, channels, (height - 1) * down + 1, (width - 1) * right + 1)
    y[:, :, ::down, ::right] = x[0]
    return y


_WINDOW = {"stride": "pair", "padding": "pair", "dilation": "pair", "groups": "int",
           "output_padding": "pair"}  # fmt: skip

TRANSPOSED = {
    "conv1d": Operator(
        _conv1d_shape,
        _run_conv1d,
        tensors=("weight",),
        optional_tensors=("bias",),
        attrs={"stride": "int", "padding": "pair", "dilation": "int", "groups": "int"},
        captured={"conv1d": _capture_conv1d},
        onnx=_write_conv1d,
        lower=_lower_conv1d,
    ),
    "conv_transpose2d": Operator(
        _transposed_shape,
        _run_transposed,
        tensors=("weight",),
        optional_tensors=("bias",),
        attrs=_WINDOW,
        captured={
            "conv_transpose2d": _capture_transposed,
            "conv_transpose1d": _capture_transposed_sequence,
            "conv_transpose3d": _capture_transposed_volume,
        },
        onnx=_write_transposed,
        lower=_lower_transposed,
    ),
    "dilate": Operator(_dilated, _run_dilate, attrs={"stride": "pair"}),
}
