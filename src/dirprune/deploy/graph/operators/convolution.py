"""Convolutions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.layouts import Layout, varies_only_along, vector
from dirprune.deploy.graph.operators.lazy_torch import F
from dirprune.deploy.graph.operators.record import (
    EPILOGUE,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
    check_vectors,
    count_windows,
)
from dirprune.deploy.graph.operators.sample_filters import convolve_samples, has_own_filters

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.cut import NodeCut
    from dirprune.deploy.shrinking.liveness import Rules


def pair(value: Any) -> tuple[int, int]:
    """Two integers of one, or of a list of one or two."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def triple(value: Any) -> tuple[int, int, int]:
    """Three integers of one, or of a list of one or three."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[len(values) // 2], values[-1])


def convolution_shape(
    x: Shape,
    tensors: TensorShapes,
    groups: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Shape:
    """Return the shape of a convolution's output, in one to three dimensions of space.

    Args:
        x: Shape of the input, (-1, channels, *sizes).
        tensors: Shapes of weight and bias.
        groups: Number of groups of channels.
        stride: One for each size.
        padding: Before and behind each size.
        dilation: One for each size.

    Raises:
        ValueError: If these do not fit each other.
    """
    weight, space = tensors["weight"], len(stride)
    check_rank(x, space + 2)
    check_rank(weight, space + 2)
    if groups < 1 or weight[0] % groups or x[1] != weight[1] * groups:
        raise ValueError(f"a weight {weight} in {groups} groups does not fit {x[1]} channels")
    check_vectors(tensors, {"bias": weight[0]})
    if (len(padding), len(dilation)) != (2 * space, space):
        raise ValueError(f"needs {space} strides and dilations, and {2 * space} paddings")
    windows = zip(x[2:], weight[2:], stride, padding[::2], padding[1::2], dilation)
    return (-1, weight[0], *(count_windows(*window) for window in windows))


def side_paddings(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Return the padding before and behind each size.

    Args:
        padding: As torch takes it: "same", "valid", one integer, or one for each size.
        kernel: One for each size.
        dilation: One for each size.
    """
    if isinstance(padding, str):
        total = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, kernel)]
        return tuple(side for t in total for side in (t // 2, t - t // 2))
    each = [padding] if isinstance(padding, int) else list(padding)
    each *= len(kernel) // len(each)
    return tuple(side for p in each for side in (p, p))


def _conv2d_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Mapping[str, Any]) -> Shape:
    return convolution_shape(
        x[0], tensors, attrs["groups"], attrs["stride"], attrs["padding"], attrs["dilation"]
    )


def _run_conv2d(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Mapping[str, Any]) -> "Tensor":
    top, bottom, left, right = a["padding"]
    y, padding = x[0], (top, left)
    if (top, left) != (bottom, right):
        y, padding = F.pad(y, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        y, t["weight"], t.get("bias"), a["stride"], padding, a["dilation"], a["groups"]
    )


def _capture_conv2d(b: "Builder", a: "Arguments", results: Any) -> "Value":
    dilation = pair(a.dilation)
    padding = side_paddings(a.padding, b.sizes(a.weight)[2:], dilation)
    attrs = {"stride": pair(a.stride), "padding": padding, "dilation": dilation,
             "groups": a.groups}  # fmt: skip
    if has_own_filters(b, a):
        return convolve_samples(b, a, results[0], attrs["stride"], padding, dilation)
    if b.sizes(a.input)[0] < -1:
        return _convolve_each_map(b, a, attrs)
    return b.add("conv2d", [b.plain(a.input)], attrs, {"weight": a.weight, "bias": a.bias})


def _convolve_each_map(b: "Builder", a: "Arguments", attrs: Mapping[str, Any]) -> "Value":
    """Several maps of each sample are a volume's depth."""
    attrs = {**attrs, "stride": (1, *attrs["stride"]), "padding": (0, 0, *attrs["padding"]),
             "dilation": (1, *attrs["dilation"])}  # fmt: skip
    sizes = b.sizes(a.weight)
    tensors = {"weight": b.reshape(a.weight, (*sizes[:2], 1, *sizes[2:])), "bias": a.bias}
    return b.each_map(a.input, lambda x: b.add("conv3d", [x], attrs, tensors))


def write_convolution(w: "Writer", n: "OnnxNode") -> None:
    """Write a convolution over maps or volumes."""
    a = n.attrs
    w.add("Conv", n.weighted_inputs, n.name, pads=[*a["padding"][::2], *a["padding"][1::2]],
          strides=a["stride"], dilations=a["dilation"], group=a["groups"])  # fmt: skip


class Filters(Channels):
    """Every output channel reads the input channels that its weights join it to.

    Args:
        axis: Of the channels, counted without the batch.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis

    def constants(self, known: "ConstantInputs") -> Layout:
        from dirprune.deploy.shrinking.filter_inputs import filter_inputs

        read = filter_inputs(known.node, known.shapes[0], known.own["weight"], known.inputs[0])
        certain = ~(read.varying | read.padded).any(axis=1)
        values = np.where(certain, read.shift() + known.own.get("bias", 0.0), np.nan)
        return values.reshape(self._shape(known.rank))

    def _shape(self, rank: int) -> list[int]:
        return [-1 if axis == self._axis % rank else 1 for axis in range(rank)]

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        from dirprune.deploy.shrinking.filter_inputs import filter_inputs
        from dirprune.deploy.shrinking.liveness import ALWAYS, Follows, Reads

        weight = rules.weights[node.tensors["weight"]]
        layout, shape = inputs[0], shapes[0]
        axis = self._axis % (len(shape) - 1)
        outs = rules.fresh(len(weight))
        if varies_only_along(layout, axis):
            ins = vector(layout, axis, shape[axis + 1])
        else:
            rules.keep(layout, "mixed")
            ins = np.full(shape[axis + 1], ALWAYS)
        groups: Any = node.attrs.get("groups", 1)
        if groups > 1:
            members = np.concatenate([outs.reshape(groups, -1), ins.reshape(groups, -1)], axis=1)
            rules.add(Follows(members, np.roll(members, 1, axis=1), "grouped"))
            ins = ins.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
        read = filter_inputs(node, shape, weight, rules.constants[node.inputs[0]])
        rules.add(Reads(outs, ins, read.varying, "read"))
        if read.padded.any():
            rules.add(Reads(outs, ins, read.padded, "padded"))
        axes: dict[str, tuple[Layout | None, ...]] = {
            "weight": (outs, ins if groups == 1 else None),
            "bias": (outs,),
        }
        rules.use(node, {role: axes[role] for role in node.tensors})
        return outs.reshape(self._shape(len(node.shape) - 1))

    def cut(self, change: "NodeCut") -> None:
        if change.attrs.get("groups", 1) > 1:
            change.attrs["groups"] = change.shapes[0][1] // change.tensors["weight"].shape[1]
        else:
            change.fold_constants_into_bias()


CONVOLUTIONS = {
    "conv2d": Operator(
        _conv2d_shape,
        _run_conv2d,
        inputs=(1, 2),
        tensors=("weight",),
        optional_tensors=("bias",),
        attrs={"stride": "pair", "padding": "four", "dilation": "pair", "groups": "int"},
        optional_attrs=EPILOGUE,
        captured={"conv2d": _capture_conv2d},
        onnx=write_convolution,
        channels=Filters(0),
        epilogue=True,
    ),
}
