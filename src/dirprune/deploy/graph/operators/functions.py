"""Further functions of single elements; integers and booleans are float32 here."""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Elementwise
from dirprune.deploy.graph.operators.lazy_torch import F, torch
from dirprune.deploy.graph.operators.pointwise import unary
from dirprune.deploy.graph.operators.record import Attributes, Operator, Shape, same_shape
from dirprune.deploy.graph.traced_sizes import is_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _write_rsqrt(w: "Writer", n: "OnnxNode") -> None:
    w.add("Reciprocal", [w.add("Sqrt", n.inputs)], n.name)


def _write_trunc(w: "Writer", n: "OnnxNode") -> None:
    w.add("Mul", [w.add("Sign", n.inputs), w.add("Floor", [w.add("Abs", n.inputs)])], n.name)


def _write_not(w: "Writer", n: "OnnxNode") -> None:
    zero = w.tensor(np.array(0, np.float32), "zero")
    w.add("Cast", [w.add("Equal", [n.inputs[0], zero])], n.name, to=1)


def _write_expm1(w: "Writer", n: "OnnxNode") -> None:
    one = w.tensor(np.array(1, np.float32), "one")
    w.add("Sub", [w.add("Exp", n.inputs), one], n.name)


def _write_log1p(w: "Writer", n: "OnnxNode") -> None:
    one = w.tensor(np.array(1, np.float32), "one")
    w.add("Log", [w.add("Add", [n.inputs[0], one])], n.name)


def _write_softplus(w: "Writer", n: "OnnxNode") -> None:
    beta = w.tensor(np.array(n.attrs["beta"], np.float32), f"{n.name}.beta")
    limit = w.tensor(np.array(n.attrs["threshold"], np.float32), f"{n.name}.threshold")
    scaled = w.add("Mul", [n.inputs[0], beta])
    soft = w.add("Div", [w.add("Softplus", [scaled]), beta])
    w.add("Where", [w.add("Greater", [scaled, limit]), n.inputs[0], soft], n.name)


def _capture_softplus(b: "Builder", a: "Arguments", results: Any) -> "Value":
    attrs = {"beta": float(a.beta), "threshold": float(a.threshold)}
    return b.add("softplus", [a.self], attrs)


def _capture_pow(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if not isinstance(a.exponent, int | float):
        return b.combine("pow", [b.operand(a.self), b.operand(a.exponent)])
    if a.exponent == 2:
        return b.add("mul", [a.self, a.self])
    return b.add("power", [a.self], {"exponent": float(a.exponent)})


def _write_power(w: "Writer", n: "OnnxNode") -> None:
    exponent = w.tensor(np.array(n.attrs["exponent"], np.float32), f"{n.name}.exponent")
    w.add("Pow", [n.inputs[0], exponent], n.name)


def _clamp_shape(x: "Sequence[Shape]", tensors: Any, attrs: Attributes) -> Shape:
    if "low" not in attrs and "high" not in attrs:
        raise ValueError("needs low or high")
    return x[0]


def _capture_clamp(low: str, high: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        given = zip((low, high), (-inf, inf))
        limits = tuple(_finite_limit(b, getattr(a, key, None), every) for key, every in given)
        if limits == (None, None):
            return a.self  # type: ignore[no-any-return]
        if limits == (0, None):
            return b.add("relu", [a.self])
        if limits == (0, 6):
            return b.add("relu6", [a.self])
        if any(not isinstance(limit, int | float | None) for limit in limits):
            x = a.self
            for op, limit in zip(("maximum", "minimum"), limits):
                x = x if limit is None else b.combine(op, [x, b.operand(limit)])
            return x  # type: ignore[no-any-return]
        named = zip(("low", "high"), limits)
        bounds = {key: float(limit) for key, limit in named if limit is not None}
        return b.add("clamp", [a.self], bounds)

    return capture


def _finite_limit(b: "Builder", limit: Any, unlimited: float) -> Any:
    """A finite number, None if all numbers are within the limit, or a constant or value."""
    if limit == unlimited:
        return None
    return limit if limit is None or is_finite(limit) else b.operand(limit)


def _write_clamp(w: "Writer", n: "OnnxNode") -> None:
    bounds = [
        w.scalar(n.attrs[key], f"{n.name}.{key}") if key in n.attrs else ""
        for key in ("low", "high")
    ]
    w.add("Clip", n.inputs + bounds, n.name)


def _same(b: "Builder", a: "Arguments", results: Any) -> Any:
    return a.self if hasattr(a, "self") else a.x


def _capture_convert(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Conversion: to integers rounds towards zero, to booleans compares with zero."""
    dtype = getattr(a, "dtype", None)
    if dtype is None or dtype.is_floating_point or b.is_batch_index(a.self):
        return a.self  # type: ignore[no-any-return]
    if dtype == torch.bool:
        return b.add("logical_not", [b.add("logical_not", [a.self])])
    return b.add("trunc", [a.self])


def _capture_round(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Round to integers, or to a number of decimals."""
    decimals = getattr(a, "decimals", 0)
    if not decimals:
        return b.add("round", [a.self])
    up, down = ("mul", "div") if decimals > 0 else ("div", "mul")
    power = {"scalar": 10.0 ** abs(decimals)}
    return b.add(down, [b.add("round", [b.add(up, [a.self], power)])], power)


_PLAIN: dict[str, tuple[Callable[..., Any], Any]] = {
    "exp": (lambda x, t, a: x[0].exp(), "Exp"),
    "log": (lambda x, t, a: x[0].log(), "Log"),
    "abs": (lambda x, t, a: x[0].abs(), "Abs"),
    "sqrt": (lambda x, t, a: x[0].sqrt(), "Sqrt"),
    "rsqrt": (lambda x, t, a: x[0].rsqrt(), _write_rsqrt),
    "sin": (lambda x, t, a: x[0].sin(), "Sin"),
    "cos": (lambda x, t, a: x[0].cos(), "Cos"),
    "erf": (lambda x, t, a: x[0].erf(), "Erf"),
    "floor": (lambda x, t, a: x[0].floor(), "Floor"),
    "ceil": (lambda x, t, a: x[0].ceil(), "Ceil"),
    "round": (lambda x, t, a: x[0].round(), "Round"),
    "atan": (lambda x, t, a: x[0].atan(), "Atan"),
    "sign": (lambda x, t, a: x[0].sign(), "Sign"),
    "trunc": (lambda x, t, a: x[0].trunc(), _write_trunc),
    "log1p": (lambda x, t, a: x[0].log1p(), _write_log1p),
    "expm1": (lambda x, t, a: x[0].expm1(), _write_expm1),
    "mish": (lambda x, t, a: F.mish(x[0]), "Mish"),
    "selu": (lambda x, t, a: F.selu(x[0]), "Selu"),
}

FUNCTIONS = {
    **{op: unary(op, run, onnx) for op, (run, onnx) in _PLAIN.items()},
    "round": unary("round", *_PLAIN["round"], captured={"round": _capture_round}),
    "trunc": unary(
        "trunc",
        _PLAIN["trunc"][0],
        _write_trunc,
        captured={
            "trunc": lambda b, a, results: b.add("trunc", [a.self]),
            "to": _capture_convert,
            "_to_copy": _capture_convert,
            "type_as": _same,
        },
    ),
    "logical_not": unary(
        "logical_not",
        lambda x, t, a: (x[0] == 0).to(x[0].dtype),
        _write_not,
        captured={"logical_not": lambda b, a, results: b.add("logical_not", [a.self])},
    ),
    "softplus": unary(
        "softplus",
        lambda x, t, a: F.softplus(x[0], a["beta"], a["threshold"]),
        _write_softplus,
        {"beta": "float", "threshold": "float"},
        {"softplus": _capture_softplus},
    ),
    "power": unary(
        "power",
        lambda x, t, a: x[0] ** a["exponent"],
        _write_power,
        {"exponent": "float"},
        {"pow": _capture_pow},
    ),
    "clamp": Operator(
        _clamp_shape,
        lambda x, t, a: x[0].clamp(a.get("low"), a.get("high")),
        optional_attrs={"low": "float", "high": "float"},
        captured={
            "hardtanh": _capture_clamp("min_val", "max_val"),
            "clamp": _capture_clamp("min", "max"),
            "clamp_min": _capture_clamp("min", "none"),
            "clamp_max": _capture_clamp("none", "max"),
        },
        onnx=_write_clamp,
        channels=Elementwise(),
    ),
}
_ = same_shape
