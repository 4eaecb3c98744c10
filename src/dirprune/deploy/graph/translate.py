"""What each operator of ``torch.export`` becomes in a graph."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from dirprune.deploy.graph.builder import Builder, Constant, Value
from dirprune.deploy.graph.operators import Attribute, Shape

Arguments = SimpleNamespace
Result = Value | Sequence[Value | None]  # None: the places of maxima
_Translation = Callable[[Builder, Arguments, list[Shape]], Result]


def _unary(op: str) -> _Translation:
    return lambda b, a, shapes: b.add(op, [a.self])


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def _dim(b: Builder, x: Value, dim: int) -> int:
    return dim % len(b.shape_of(x))


def _conv2d(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    dilation, padding = _pair(a.dilation), a.padding
    if isinstance(padding, str):
        kernel = b.shape_of(a.weight)[2:]
        total = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, kernel)]
        four = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        high, wide = _pair(padding)
        four = (high, high, wide, wide)
    attrs = {"stride": _pair(a.stride), "padding": four, "dilation": dilation, "groups": a.groups}
    return b.add("conv2d", [a.input], attrs, {"weight": a.weight, "bias": a.bias})


def _linear(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("linear", [a.input], {}, {"weight": a.weight, "bias": a.bias})


def _batch_norm(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if a.training or a.running_mean is None:
        raise ValueError("has no running statistics, so that outputs depend on the batch")
    tensors = {"weight": a.weight, "bias": a.bias, "running_mean": a.running_mean,
               "running_var": a.running_var}  # fmt: skip
    return b.add(
        "batch_norm", [a.input], {"eps": float(a.eps), "momentum": float(a.momentum)}, tensors
    )


def _leaky_relu(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("leaky_relu", [a.self], {"slope": float(a.negative_slope)})


def _elu(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if (a.scale, a.input_scale) != (1, 1):
        raise ValueError(f"scales by {a.scale} and {a.input_scale}")
    return b.add("elu", [a.self], {"alpha": float(a.alpha)})


def _gelu(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("gelu", [a.self], {"tanh": int(a.approximate == "tanh")})


def _clamp(low: str, high: str) -> _Translation:
    def translate(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
        limits = getattr(a, low), getattr(a, high, None)
        if limits not in ((0, 6), (0, None)):
            raise ValueError(f"clamps to {limits}: only 0 to 6 and at 0 are known")
        return b.add("relu" if limits[1] is None else "relu6", [a.self])

    return translate


def _softmax(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("softmax", [a.self], {"dim": _dim(b, a.self, a.dim)})


def _binary(op: str) -> _Translation:
    def translate(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
        if getattr(a, "rounding_mode", None) is not None:
            raise ValueError("rounds")
        other, alpha = a.other, getattr(a, "alpha", 1)
        if not isinstance(other, Value | Constant):
            return b.add(op, [a.self], {"scalar": float(other * alpha)})
        if alpha != 1:
            other = (
                b.add("mul", [other], {"scalar": float(alpha)})
                if isinstance(other, Value)
                else Constant(other.tensor * alpha)
            )
        return b.add(op, [a.self, other])

    return translate


def _reversed(op: str, scalar: str | float) -> _Translation:
    def translate(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
        first = getattr(a, scalar) if isinstance(scalar, str) else scalar
        if getattr(a, "alpha", 1) != 1 or isinstance(first, Value | Constant):
            raise ValueError("subtracts a multiple or a tensor")
        return b.add(op, [a.self], {"scalar": float(first), "reversed": 1})

    return translate


def _neg(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("mul", [a.self], {"scalar": -1.0})


def _square(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if getattr(a, "exponent", 2) != 2:
        raise ValueError(f"takes the power {a.exponent}: only 2 is known")
    return b.add("mul", [a.self, a.self])


def _cat(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("cat", a.tensors, {"dim": _dim(b, a.tensors[0], a.dim)})


def _stack(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    dim = a.dim % len(shapes[0])
    size = (*shapes[0][:dim], 1, *shapes[0][dim + 1 :])
    return b.add("cat", [b.add("reshape", [x], {"size": size}) for x in a.tensors], {"dim": dim})


def _take(b: Builder, x: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
    size = b.shape_of(x)[dim]
    if (start, end, step) == (0, size, 1):
        return x
    return b.add("slice", [x], {"dim": dim, "start": start, "end": end, "step": step})


def _slice(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    dim = _dim(b, a.self, a.dim)
    if shapes[0] == b.shape_of(a.self):
        return a.self  # type: ignore[no-any-return]
    size = b.shape_of(a.self)[dim]
    start, end, step = slice(a.start, a.end, a.step).indices(max(size, 0))
    return _take(b, a.self, dim, start, end, step)


def _narrow(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    dim = _dim(b, a.self, a.dim)
    start = a.start % b.shape_of(a.self)[dim]
    return _take(b, a.self, dim, start, start + a.length)


def _select(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    dim = _dim(b, a.self, a.dim)
    if dim == 0:
        raise ValueError("picks from the batch")
    index = a.index % b.shape_of(a.self)[dim]
    return _reshape(b, Arguments(self=_take(b, a.self, dim, index, index + 1)), shapes)


def _split(b: Builder, a: Arguments, shapes: list[Shape]) -> list[Value]:
    dim, start, parts = _dim(b, a.self, a.dim), 0, []
    if dim == 0:
        raise ValueError("splits the batch")
    for shape in shapes:
        parts.append(_take(b, a.self, dim, start, start + shape[dim]))
        start += shape[dim]
    return parts


def _unbind(b: Builder, a: Arguments, shapes: list[Shape]) -> list[Value]:
    return [
        _select(b, Arguments(self=a.self, dim=a.dim, index=i), [shape])
        for i, shape in enumerate(shapes)
    ]


def _max_pool2d(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("max_pool2d", [a.self], {**_window(a), "dilation": _pair(a.dilation)})


def _max_pool2d_with_indices(b: Builder, a: Arguments, shapes: list[Shape]) -> Result:
    return [_max_pool2d(b, a, shapes), None]


def _avg_pool2d(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if a.divisor_override is not None:
        raise ValueError("overrides the divisor")
    return b.add(
        "avg_pool2d", [a.self], {**_window(a), "count_include_pad": int(a.count_include_pad)}
    )


def _window(a: Arguments) -> dict[str, Any]:
    kernel = _pair(a.kernel_size)
    return {
        "kernel": kernel,
        "stride": _pair(a.stride) if a.stride else kernel,
        "padding": _pair(a.padding),
        "ceil_mode": int(a.ceil_mode),
    }


def _adaptive_avg(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("adaptive_avg_pool2d", [a.self], {"output": _map_of(shapes[0])})


def _adaptive_max(b: Builder, a: Arguments, shapes: list[Shape]) -> Result:
    return [b.add("adaptive_max_pool2d", [a.self], {"output": _map_of(shapes[0])}), None]


def _map_of(shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ValueError(f"gives {shape}, not (batch, channels, height, width)")
    return shape[2:]


def _mean(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if not getattr(a, "dim", None):
        raise ValueError("averages over the batch")
    dims = tuple(_dim(b, a.self, dim) for dim in a.dim)
    return b.add("mean", [a.self], {"dims": dims, "keepdim": int(a.keepdim)})


def _reshape(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    x: Value = a.self
    return x if b.shape_of(x) == shapes[0] else b.add("reshape", [x], {"size": shapes[0]})


def _transpose(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    dims = list(range(len(shapes[0])))
    one, two = _dim(b, a.self, a.dim0), _dim(b, a.self, a.dim1)
    dims[one], dims[two] = dims[two], dims[one]
    return b.add("permute", [a.self], {"dims": tuple(dims)})


def _permute(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("permute", [a.self], {"dims": tuple(_dim(b, a.self, dim) for dim in a.dims)})


def _pad(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if getattr(a, "mode", "constant") != "constant":
        raise ValueError(f"pads by {a.mode}: only a constant is known")
    left, right, top, bottom, *rest = [*a.pad, 0, 0, 0, 0][: max(4, len(a.pad))]
    if any(rest):
        raise ValueError("pads channels or the batch")
    if shapes[0] == b.shape_of(a.self):
        return a.self  # type: ignore[no-any-return]
    return b.add(
        "pad", [a.self], {"padding": (top, bottom, left, right), "value": float(a.value or 0)}
    )


def _resized(b: Builder, a: Arguments, shapes: list[Shape]) -> tuple[int, ...]:
    """The size of the result; a factor that does not give it exactly would sample elsewhere."""
    before, after = b.shape_of(a.input)[2:], _map_of(shapes[0])
    factors = a.scale_factors or [n / m for n, m in zip(after, before)]
    if any(m * factor != n for m, n, factor in zip(before, after, factors) if a.scale_factors):
        raise ValueError(f"scales {before} by {factors}, which is not whole: give a size instead")
    return after


def _nearest(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    return b.add("upsample_nearest", [a.input], {"output": _resized(b, a, shapes)})


def _bilinear(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    corners = int(a.align_corners)
    attrs: dict[str, Attribute] = {"output": _resized(b, a, shapes), "align_corners": corners}
    return b.add("upsample_bilinear", [a.input], attrs)


def _layer_norm(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    tensors = {"weight": a.weight, "bias": a.bias}
    return b.add(
        "layer_norm", [a.input], {"dims": len(a.normalized_shape), "eps": float(a.eps)}, tensors
    )


def _dropout(b: Builder, a: Arguments, shapes: list[Shape]) -> Value:
    if a.train:
        raise ValueError("drops at random in evaluation mode too: pass training=self.training")
    x = a.input if hasattr(a, "input") else a.self  # where it works in place
    return b.add("dropout", [x], {"p": float(a.p)})


TRANSLATIONS: dict[str, _Translation] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    **{op: _unary(op) for op in ("relu", "relu6", "silu", "sigmoid", "tanh", "hardswish",
                                 "hardsigmoid")},
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "hardtanh": _clamp("min_val", "max_val"),
    "clamp": _clamp("min", "max"),
    "clamp_min": _clamp("min", "none"),
    "softmax": _softmax,
    "_softmax": _softmax,
    **{op: _binary(op) for op in ("add", "sub", "mul", "div")},
    "rsub": _reversed("sub", "other"),
    "reciprocal": _reversed("div", 1.0),
    "neg": _neg,
    "square": _square,
    "pow": _square,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _split),
    "unbind": _unbind,
    "max_pool2d": _max_pool2d,
    "max_pool2d_with_indices": _max_pool2d_with_indices,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg,
    "adaptive_max_pool2d": _adaptive_max,
    "mean": _mean,
    # Without a change of shape these are identities.
    **dict.fromkeys(
        ("reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
         "expand", "contiguous", "clone", "detach", "alias", "to", "_to_copy", "identity"),
        _reshape,
    ),
    "transpose": _transpose,
    "permute": _permute,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "upsample_nearest2d": _nearest,
    "upsample_bilinear2d": _bilinear,
    "layer_norm": _layer_norm,
    "dropout": _dropout,
    "feature_dropout": _dropout,
}  # fmt: skip
"""By the operator's name in ATen, without the underscore of what works in place."""
