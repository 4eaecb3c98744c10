"""Convolutions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.layouts import Layout, varies_only_along, vector
from dirprune.deploy.graph.operators.lazy_torch import F
from dirprune.deploy.graph.operators.record import (
    EPILOGUE,
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
    check_vectors,
    count_windows,
)

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


def _conv2d_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    weight, groups = tensors["weight"], attrs["groups"]
    check_rank(x[0], 4)
    check_rank(weight, 4)
    if groups < 1 or weight[0] % groups or x[0][1] != weight[1] * groups:
        raise ValueError(f"a weight {weight} in {groups} groups does not fit {x[0][1]} channels")
    check_vectors(tensors, {"bias": weight[0]})
    top, bottom, left, right = attrs["padding"]
    sizes = [
        count_windows(size, kernel, stride, low, high, dilation)
        for size, kernel, stride, (low, high), dilation in zip(
            x[0][2:],
            weight[2:],
            attrs["stride"],
            ((top, bottom), (left, right)),
            attrs["dilation"],
        )
    ]
    return (-1, weight[0], *sizes)


def _run_conv2d(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Mapping[str, Any]) -> "Tensor":
    top, bottom, left, right = a["padding"]
    y, padding = x[0], (top, left)
    if (top, left) != (bottom, right):
        y, padding = F.pad(y, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        y, t["weight"], t.get("bias"), a["stride"], padding, a["dilation"], a["groups"]
    )


def _capture_conv2d(b: "Builder", a: "Arguments", results: Any) -> "Value":
    dilation, padding = pair(a.dilation), a.padding
    if isinstance(padding, str):
        kernel = b.sizes(a.weight)[2:]
        total = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, kernel)]
        four = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        high, wide = pair(padding)
        four = (high, high, wide, wide)
    attrs = {"stride": pair(a.stride), "padding": four, "dilation": dilation, "groups": a.groups}
    return b.add("conv2d", [b.plain(a.input)], attrs, {"weight": a.weight, "bias": a.bias})


def _write_conv2d(w: "Writer", n: "OnnxNode") -> None:
    top, bottom, left, right = n.attrs["padding"]
    inputs = n.inputs + [n.tensors[role] for role in ("weight", "bias") if role in n.tensors]
    w.add("Conv", inputs, n.name, pads=[top, left, bottom, right], strides=n.attrs["stride"],
          dilations=n.attrs["dilation"], group=n.attrs["groups"])  # fmt: skip


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
        onnx=_write_conv2d,
        channels=Filters(0),
        epilogue=True,
    ),
}
