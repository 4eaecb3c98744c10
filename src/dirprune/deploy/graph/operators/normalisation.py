"""Normalisation, and the affine functions that it becomes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels, Unchanged
from dirprune.deploy.graph.operators.layouts import Layout, varies_along, varies_only_along, vector
from dirprune.deploy.graph.operators.lazy_torch import F, torch
from dirprune.deploy.graph.operators.record import (
    EPILOGUE,
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_dim,
    check_vectors,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.liveness import Rules


def _channelwise(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    if len(x[0]) < 2:
        raise ValueError(f"{x[0]} has no channels")
    sizes = dict.fromkeys(tensors, x[0][1])
    sizes.pop("num_batches_tracked", None)
    check_vectors(tensors, sizes)
    if tensors.get("num_batches_tracked", ()) != ():
        raise ValueError("num_batches_tracked must be a single number")
    if attrs.get("eps", 0.0) < 0 or not 0 <= attrs.get("momentum", 0.0) <= 1:
        raise ValueError("eps must be at least 0, momentum from 0 to 1")
    return x[0]


def _run_batch_norm(
    x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Attributes, training: bool
) -> "Tensor":
    momentum = a.get("momentum", 0.1)
    if training and "num_batches_tracked" in t:  # a cumulative mean
        t["num_batches_tracked"].add_(1)
        momentum = 1 / float(t["num_batches_tracked"])
    return F.batch_norm(
        x[0], t["running_mean"], t["running_var"], t.get("weight"), t.get("bias"), training,
        momentum, a["eps"],
    )  # fmt: skip


def _capture_batch_norm(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if a.running_mean is None or getattr(a, "training", False):
        raise ValueError(
            "has no running statistics, so that outputs depend on the batch: set running_mean and "
            "running_var, as by training with track_running_stats=True"
        )
    tensors = {"weight": a.weight, "bias": a.bias, "running_mean": a.running_mean,
               "running_var": a.running_var}  # fmt: skip
    tensors |= b.cumulative_count(a.running_mean)
    attrs = {"eps": float(a.eps), "momentum": float(a.momentum)}
    return b.channels_first(a.input, lambda x: b.add("batch_norm", [x], attrs, tensors))


def _write_batch_norm(w: "Writer", n: "OnnxNode") -> None:
    own = dict(n.tensors)
    for role, fill in {"weight": 1.0, "bias": 0.0}.items():
        if role not in own:
            own[role] = w.tensor(np.full(n.shape[1], fill, np.float32), f"{n.name}.{role}")
    order = ("weight", "bias", "running_mean", "running_var")
    inputs = n.inputs + [own[role] for role in order]
    w.add("BatchNormalization", inputs, n.name, epsilon=n.attrs["eps"])


class _BatchNorm(Channels):
    def constants(self, known: "ConstantInputs") -> Layout:
        own = {role: tensor.astype(float) for role, tensor in known.own.items()}
        scale = own.get("weight", 1.0) / np.sqrt(own["running_var"] + known.attrs["eps"])
        shift = own.get("bias", 0.0) - scale * own["running_mean"]
        scale, shift = (v.reshape(-1, *(1,) * (known.rank - 1)) for v in (scale, shift))
        return np.asarray(np.where(scale == 0, shift, scale * known.inputs[0] + shift))

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        if not varies_only_along(inputs[0], 0):
            return None
        channels = (vector(inputs[0], 0, node.shape[1]),)
        rules.use(node, {r: () if r == "num_batches_tracked" else channels for r in node.tensors})
        return inputs[0]


def _run_affine(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Attributes) -> "Tensor":
    shape = (-1,) + (1,) * (x[0].dim() - 2)
    return x[0] * t["scale"].reshape(shape) + t["shift"].reshape(shape)


def _layer_norm_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dims = attrs["dims"]
    if not 1 <= dims < len(x[0]):
        raise ValueError(f"cannot normalise {dims} trailing dimensions of {x[0]}")
    if any(shape != x[0][-dims:] for shape in tensors.values()):
        raise ValueError(f"weight and bias must have shape {x[0][-dims:]}")
    if attrs["eps"] < 0:
        raise ValueError("eps must be at least 0")
    return x[0]


def _run_layer_norm(x: "list[Tensor]", t: "Mapping[str, Tensor]", a: Attributes) -> "Tensor":
    shape = x[0].shape[-a["dims"] :]
    return F.layer_norm(x[0], shape, t.get("weight"), t.get("bias"), a["eps"])


def _capture_layer_norm(b: "Builder", a: "Arguments", results: Any) -> "Value":
    dims = len(a.normalized_shape)
    for dim in range(-dims, 0):
        b.axis(a.input, dim)
    attrs = {"dims": dims, "eps": float(a.eps)}
    return b.add("layer_norm", [a.input], attrs, {"weight": a.weight, "bias": a.bias})


def _write_layer_norm(w: "Writer", n: "OnnxNode") -> None:
    own, dims = dict(n.tensors), n.attrs["dims"]
    if "weight" not in own:
        one = w.tensor(np.array(1, np.float32), "one")
        own["weight"] = w.add("Expand", [one, w.integers(n.shape[-dims:])])
    inputs = n.inputs + [own[role] for role in ("weight", "bias") if role in own]
    w.add("LayerNormalization", inputs, n.name, axis=-dims, epsilon=n.attrs["eps"])


def _group_norm_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    if len(x[0]) < 2 or attrs["groups"] < 1 or x[0][1] % attrs["groups"]:
        raise ValueError(f"cannot normalise the channels of {x[0]} in {attrs['groups']} groups")
    check_vectors(tensors, dict.fromkeys(tensors, x[0][1]))
    if attrs["eps"] < 0:
        raise ValueError("eps must be at least 0")
    return x[0]


def _capture_group_norm(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return _normalise_groups(b, a, a.num_groups)


def _capture_instance_norm(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if not a.use_input_stats:
        return _capture_batch_norm(b, a, results)
    return _normalise_groups(b, a, b.sizes(a.input)[1])


def _normalise_groups(b: "Builder", a: "Arguments", groups: int) -> "Value":
    """Groups of channels; several maps of each sample have groups of their own."""
    maps = -b.sizes(a.input)[0]
    attrs = {"groups": groups * maps, "eps": float(a.eps)}
    if maps == 1:
        tensors = {"weight": a.weight, "bias": a.bias}
        return b.add("group_norm", [b.plain(a.input)], attrs, tensors)

    def normalise(x: "Value") -> "Value":
        order = (0, 2, 1, *range(3, len(x.dims)))
        x = b.permute(x, order)  # the maps ahead of the channels
        sizes = b.sizes(x)
        y = b.add("group_norm", [b.reshape(x, (-1, sizes[1] * sizes[2], *sizes[3:]))], attrs)
        return b.permute(b.reshape(y, sizes), order)

    y = b.each_map(a.input, normalise)
    for op, tensor in (("mul", a.weight), ("add", a.bias)):
        if tensor is not None:
            y = b.combine(op, [y, b.reshape(tensor, (-1, *(1,) * (len(y.dims) - 2)))])
    return y


def _write_group_norm(w: "Writer", n: "OnnxNode") -> None:
    """InstanceNormalization over groups, then scale and shift of the channels."""
    groups, channels = n.attrs["groups"], n.shape[1]
    x = w.add("Reshape", [n.inputs[0], w.integers((0, groups, -1))])
    ones = w.tensor(np.ones(groups, np.float32), f"{n.name}.ones")
    zeros = w.tensor(np.zeros(groups, np.float32), f"{n.name}.zeros")
    x = w.add("InstanceNormalization", [x, ones, zeros], epsilon=n.attrs["eps"])
    x = w.add("Reshape", [x, w.integers((-1, *n.shape[1:]))])
    wide = w.integers((channels, *(1,) * (len(n.shape) - 2)))
    for role, op in (("weight", "Mul"), ("bias", "Add")):
        if role in n.tensors:
            x = w.add(op, [x, w.add("Reshape", [n.tensors[role], wide])])
    w.add("Identity", [x], n.name)


class _LayerNorm(Channels):
    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        dims: Any = node.attrs["dims"]
        return None if varies_along(inputs[0], *range(-dims, 0)) else inputs[0]


class _Softmax(Channels):
    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        dim: Any = node.attrs["dim"]
        return None if varies_along(inputs[0], dim - 1) else inputs[0]


def _softmax_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_dim(x[0], attrs["dim"])
    return x[0]


def _capture_softmax(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.add("softmax", [a.self], {"dim": b.axis(a.self, a.dim)})


def _capture_log_softmax(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write x - max - log(sum(exp(x - max)))."""
    apart = b.combine("sub", [a.self, b.reduce("amax", a.self, [a.dim], True)])
    total = b.reduce("sum", b.add("exp", [apart]), [a.dim], True)
    return b.combine("sub", [apart, b.add("log", [total])])


def _dropout_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    if not 0 <= attrs["p"] <= 1:
        raise ValueError("p must be from 0 to 1")
    return x[0]


def _capture_dropout(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if getattr(a, "train", False):
        raise ValueError("it drops at random in evaluation mode too: pass training=self.training")
    return b.add("dropout", [a.x if hasattr(a, "x") else a.input], {"p": float(a.p)})


NORMALISATION = {
    "batch_norm": Operator(
        _channelwise,
        _run_batch_norm,
        tensors=("running_mean", "running_var"),
        optional_tensors=("weight", "bias", "num_batches_tracked"),
        attrs={"eps": "float"},
        optional_attrs={"momentum": "float"},
        captured={
            "batch_norm": _capture_batch_norm,
            "_native_batch_norm_legit_no_training": lambda b, a, results: [
                _capture_batch_norm(b, a, results),
                None,
                None,
            ],
        },
        onnx=_write_batch_norm,
        channels=_BatchNorm(),
        trains=True,
    ),
    "affine": Operator(
        _channelwise,
        _run_affine,
        inputs=(1, 2),
        tensors=("scale", "shift"),
        optional_attrs=EPILOGUE,
        epilogue=True,
    ),
    "softmax": Operator(
        _softmax_shape,
        lambda x, t, a: torch.softmax(x[0], a["dim"]),
        attrs={"dim": "int"},
        captured={
            "softmax": _capture_softmax,
            "_softmax": _capture_softmax,
            "log_softmax": _capture_log_softmax,
            "_log_softmax": _capture_log_softmax,
        },
        onnx=lambda w, n: w.add("Softmax", n.inputs, n.name, axis=n.attrs["dim"]),
        channels=_Softmax(),
    ),
    "layer_norm": Operator(
        _layer_norm_shape,
        _run_layer_norm,
        optional_tensors=("weight", "bias"),
        attrs={"dims": "int", "eps": "float"},
        captured={"layer_norm": _capture_layer_norm},
        onnx=_write_layer_norm,
        channels=_LayerNorm(),
    ),
    "group_norm": Operator(
        _group_norm_shape,
        # Not that of nn.functional, which refuses groups of a single element.
        lambda x, t, a: torch.group_norm(
            x[0], a["groups"], t.get("weight"), t.get("bias"), a["eps"]
        ),
        optional_tensors=("weight", "bias"),
        attrs={"groups": "int", "eps": "float"},
        captured={"group_norm": _capture_group_norm, "instance_norm": _capture_instance_norm},
        onnx=_write_group_norm,
    ),
    "dropout": Operator(
        _dropout_shape,
        lambda x, t, a, training: F.dropout(x[0], a["p"], training),
        attrs={"p": "float"},
        captured={"dropout": _capture_dropout, "feature_dropout": _capture_dropout},
        onnx=lambda w, n: w.alias(n, n.inputs[0]),
        channels=Unchanged(),
        trains=True,
    ),
}
