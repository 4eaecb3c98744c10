"""Functions of single elements."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Elementwise
from dirprune.deploy.graph.operators.lazy_torch import F, torch
from dirprune.deploy.graph.operators.record import Operator, same_shape

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def unary(
    op: str,
    run: Callable[..., Any],
    onnx: Any,
    attrs: dict[str, str] | None = None,
    captured: dict[str, Callable[..., Any]] | None = None,
) -> Operator:
    """Make the record of a function of one element.

    Args:
        op: Its name, in ATen as in a graph unless ``captured`` says otherwise.
        run: In torch.
        onnx: In ONNX.
        attrs: Its attributes.
        captured: How it is captured; by default without attributes.
    """
    plain = {op: lambda b, a, results: b.add(op, [a.self])}
    return Operator(
        same_shape, run, attrs=attrs or {}, captured=captured or plain, onnx=onnx,
        channels=Elementwise(),
    )  # fmt: skip


def _capture_leaky_relu(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.add("leaky_relu", [a.self], {"slope": float(a.negative_slope)})


def _capture_elu(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if (a.scale, a.input_scale) != (1, 1):
        raise ValueError(f"scales by {a.scale} and {a.input_scale}")
    return b.add("elu", [a.self], {"alpha": float(a.alpha)})


def _capture_gelu(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return b.add("gelu", [a.self], {"tanh": int(a.approximate == "tanh")})


def _write_relu6(w: "Writer", n: "OnnxNode") -> None:
    bounds = [w.tensor(np.array(bound, np.float32), f"clip.{bound}") for bound in (0.0, 6.0)]
    w.add("Clip", n.inputs + bounds, n.name)


def _write_gelu(w: "Writer", n: "OnnxNode") -> None:
    w.add("Gelu", n.inputs, n.name, approximate="tanh" if n.attrs["tanh"] else "none")


def _write_silu(w: "Writer", n: "OnnxNode") -> None:
    w.add("Mul", [n.inputs[0], w.add("Sigmoid", n.inputs)], n.name)


POINTWISE = {
    "relu": unary(
        "relu",
        lambda x, t, a: F.relu(x[0]),
        "Relu",
    ),
    "relu6": unary(
        "relu6",
        lambda x, t, a: F.relu6(x[0]),
        _write_relu6,
    ),
    "leaky_relu": unary(
        "leaky_relu",
        lambda x, t, a: F.leaky_relu(x[0], a["slope"]),
        lambda w, n: w.add("LeakyRelu", n.inputs, n.name, alpha=n.attrs["slope"]),
        {"slope": "float"},
        {"leaky_relu": _capture_leaky_relu},
    ),
    "elu": unary(
        "elu",
        lambda x, t, a: F.elu(x[0], a["alpha"]),
        lambda w, n: w.add("Elu", n.inputs, n.name, alpha=n.attrs["alpha"]),
        {"alpha": "float"},
        {"elu": _capture_elu},
    ),
    "gelu": unary(
        "gelu",
        lambda x, t, a: F.gelu(x[0], approximate="tanh" if a["tanh"] else "none"),
        _write_gelu,
        {"tanh": "flag"},
        {"gelu": _capture_gelu},
    ),
    "silu": unary("silu", lambda x, t, a: F.silu(x[0]), _write_silu),
    "sigmoid": unary("sigmoid", lambda x, t, a: torch.sigmoid(x[0]), "Sigmoid"),
    "tanh": unary("tanh", lambda x, t, a: torch.tanh(x[0]), "Tanh"),
    "hardswish": unary("hardswish", lambda x, t, a: F.hardswish(x[0]), "HardSwish"),
    "hardsigmoid": unary(
        "hardsigmoid",
        lambda x, t, a: F.hardsigmoid(x[0]),
        lambda w, n: w.add("HardSigmoid", n.inputs, n.name, alpha=1 / 6, beta=0.5),
    ),
}
