"""Pooling over height and width."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.operators.channels import Spatial
from dirprune.deploy.graph.operators.convolution import pair
from dirprune.deploy.graph.operators.layouts import Layout
from dirprune.deploy.graph.operators.lazy_torch import F
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
    count_windows,
)
from dirprune.deploy.graph.operators.unpooling import places_of_maxima
from dirprune.deploy.graph.traced_sizes import greatest, largest, varies

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _pool_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_rank(x[0], 4)
    sizes = []
    for size, kernel, stride, padding, dilation in zip(
        x[0][2:], attrs["kernel"], attrs["stride"], attrs["padding"], attrs.get("dilation", (1, 1))
    ):
        if padding > kernel // 2:
            raise ValueError(f"padding {padding} is more than half a window of {kernel}")
        sizes.append(
            count_windows(
                size, kernel, stride, padding, padding, dilation, ceil=attrs["ceil_mode"]
            )
        )
    return (-1, x[0][1], *sizes)


def map_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    """The shape rule of operators that give maps of a stated size."""
    check_rank(x[0], 4)
    return (-1, x[0][1], *attrs["output"])


def _run_max(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    return F.max_pool2d(
        x[0], a["kernel"], a["stride"], a["padding"], a["dilation"], bool(a["ceil_mode"])
    )


def _run_average(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    flags = bool(a["ceil_mode"]), bool(a["count_include_pad"])
    return F.avg_pool2d(x[0], a["kernel"], a["stride"], a["padding"], *flags)


def _window(b: "Builder", a: "Arguments") -> dict[str, Any]:
    kernel: tuple[int, ...] = pair(a.kernel_size)
    padding = pair(a.padding)
    stride = pair(a.stride) if a.stride else kernel
    if a.ceil_mode and pair(getattr(a, "dilation", 1)) == (1, 1):
        # A window larger than the map, which hangs over its edge, is as large as the map.
        sizes = b.sizes(a.self)[-2:]
        kernel = tuple(k if varies(size) else min(k, size + 2 * p)
                       for k, size, p in zip(kernel, sizes, padding))  # fmt: skip
    return {
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": int(a.ceil_mode),
    }


def _capture_max(b: "Builder", a: "Arguments", results: Any) -> "Value":
    attrs = {**_window(b, a), "dilation": pair(a.dilation)}
    return b.map(a.self, lambda x: b.add("max_pool2d", [x], attrs))


def _capture_max_with_indices(b: "Builder", a: "Arguments", results: Any) -> "list[Any]":
    return [_capture_max(b, a, results), lambda: places_of_maxima(b, a, results[1])]


def _capture_average(b: "Builder", a: "Arguments", results: Any) -> "Value":
    attrs = {**_window(b, a), "count_include_pad": int(a.count_include_pad)}
    if a.divisor_override is None:
        return b.map(a.self, lambda x: b.add("avg_pool2d", [x], attrs))
    if a.ceil_mode:
        raise ValueError("it overrides the divisor of windows that hang over the edge")
    attrs["count_include_pad"] = 1
    y = b.map(a.self, lambda x: b.add("avg_pool2d", [x], attrs))
    height, width = attrs["kernel"]
    return b.multiplied(y, height * width / a.divisor_override)  # type: ignore[no-any-return]


def _capture_adaptive(op: str) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
        output = tuple(results[0][-2:])
        return b.map(a.self, lambda x: b.add(op, [x], {"output": output}))

    return capture


def _write_pool(w: "Writer", n: "OnnxNode") -> None:
    """Pool; windows that hang over the edge get padding of their own instead of a mode."""
    attrs, x = n.attrs, n.inputs[0]
    low: list[int] = list(attrs["padding"])
    dilations = attrs.get("dilation", (1, 1))
    high = []
    for dim in range(2):
        span = (attrs["kernel"][dim] - 1) * dilations[dim] + 1
        last = (n.node.shape[2 + dim] - 1) * attrs["stride"][dim] + span
        high.append(greatest(low[dim], last - low[dim] - n.shape[2 + dim]))
    if n.node.op == "avg_pool2d" and varies(tuple(high)):
        _write_varying_average(w, n, low, high)
        return
    own: dict[str, Any] = {"dilations": dilations} if n.node.op == "max_pool2d" else {}
    if attrs.get("count_include_pad"):
        if high == low:
            own["count_include_pad"] = 1
        else:  # what is counted ends with the declared padding
            x = w.pad(x, (low[0], low[0], low[1], low[1]), 0.0)
            low, high = [0, 0], [h - p for h, p in zip(high, low)]
    too_large = any(largest(pad) >= size for pad, size in zip(high, attrs["kernel"]))
    if varies(tuple(high)) or too_large:  # runtimes refuse it
        x = w.pad(x, (low[0], high[0], low[1], high[1]), -np.inf)
        low, high = [0, 0], [0, 0]
    op = "MaxPool" if n.node.op == "max_pool2d" else "AveragePool"
    w.add(op, [x], n.name, kernel_shape=attrs["kernel"], strides=attrs["stride"],
          pads=[*low, *high], **own)  # fmt: skip


def _write_varying_average(w: "Writer", n: "OnnxNode", low: list[int], high: list[Any]) -> None:
    """Divide the averages, padded with zeros, by those of ones where elements are counted."""
    attrs, x, sizes = n.attrs, n.inputs[0], n.shape[2:]
    if attrs["count_include_pad"]:
        x = w.pad(x, (low[0], low[0], low[1], low[1]), 0.0)
        sizes = tuple(size + 2 * p for size, p in zip(sizes, low))
        low, high = [0, 0], [h - p for h, p in zip(high, low)]
    one = w.tensor(np.array(1, np.float32), "one")
    ones = w.add("Expand", [one, w.integers((1, 1, *sizes))])
    averages = [
        w.add("AveragePool", [w.pad(held, (low[0], high[0], low[1], high[1]), 0.0)],
              kernel_shape=attrs["kernel"], strides=attrs["stride"])
        for held in (x, ones)
    ]  # fmt: skip
    w.add("Div", averages, n.name)


def _write_adaptive_average(w: "Writer", n: "OnnxNode") -> None:
    """Average over windows; where their sizes differ, as a product with two matrices."""
    output, x = n.attrs["output"], n.inputs[0]
    if output == (1, 1):
        w.add("GlobalAveragePool", [x], n.name)
    elif varies((n.shape[2:], output)):
        rows, columns = (
            w.add("Div", [w.add("Cast", [inside], to=1), w.add("Cast", [count], to=1)])
            for inside, count in (_windows_of(w, *pair) for pair in zip(n.shape[2:], output))
        )
        transposed = w.add("Transpose", [columns], perm=[1, 0])
        w.add("MatMul", [rows, w.add("MatMul", [x, transposed])], n.name)
    elif all(size % count == 0 for size, count in zip(n.shape[2:], output)):
        kernel = [size // count for size, count in zip(n.shape[2:], output)]
        w.add("AveragePool", [x], n.name, kernel_shape=kernel, strides=kernel)
    else:
        rows, columns = (
            w.tensor(_averages(size, count), f"{n.name}.{axis}")
            for axis, size, count in zip("hw", n.shape[2:], output)
        )
        transposed = w.add("Transpose", [columns], perm=[1, 0])
        w.add("MatMul", [rows, w.add("MatMul", [x, transposed])], n.name)


def _write_adaptive_max(w: "Writer", n: "OnnxNode") -> None:
    """Take the largest of every window, first along the height, then along the width."""
    x = n.inputs[0]
    for axis, size, count in zip((2, 3), n.shape[2:], n.attrs["output"]):
        if varies((size, count)):
            inside, _ = _windows_of(w, size, count)
            inside = w.add("Unsqueeze", [inside, w.integers([2])]) if axis == 2 else inside
            wide = w.add("Unsqueeze", [x, w.integers([axis])])
            lowest = w.tensor(np.array(-np.inf, np.float32), "lowest")
            held = w.add("Where", [inside, wide, lowest])
            name = n.name if axis == 3 else ""
            x = w.add("ReduceMax", [held, w.integers([axis + 1])], name, keepdims=0)
            continue
        axes = w.integers([axis])
        parts = [
            w.add("ReduceMax", [w.slice(x, axis, start, end), axes], keepdims=1)
            for start, end in _windows(size, count)
        ]
        x = w.add("Concat", parts, n.name if axis == 3 else "", axis=axis)


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, ceil((i + 1) * size / count)) for i in range(count)]


def _windows_of(w: "Writer", size: Any, count: Any) -> tuple[str, str]:
    """Whether elements are in a window, with shape (count, size), and its length, (count, 1)."""
    number, whole, parts = w.range(count), w.integers([size]), w.integers([count])
    start = w.add("Div", [w.add("Mul", [number, whole]), parts])
    after = w.add("Mul", [w.add("Add", [number, w.integers([1])]), whole])
    end = w.add("Div", [w.add("Add", [after, w.integers([count - 1])]), parts])
    start, end = (w.add("Unsqueeze", [edge, w.integers([1])]) for edge in (start, end))
    places = w.range(size)
    inside = w.add("And", [w.add("GreaterOrEqual", [places, start]), w.add("Less", [places, end])])
    return inside, w.add("Sub", [end, start])


def _averages(size: int, count: int) -> NDArray[np.float32]:
    """The matrix with shape (count, size) that averages over each window."""
    matrix = np.zeros((count, size), np.float32)
    for row, (start, end) in zip(matrix, _windows(size, count)):
        row[start:end] = 1 / (end - start)
    return matrix


def _average_is_unchanged(held: Layout, attrs: Attributes) -> Any:
    """Whether a constant is its own average: not if zeros of the padding are counted."""
    counted = attrs["count_include_pad"] and any(attrs["padding"])
    return (held == 0) | (not counted)


def _maximum_is_unchanged(held: Layout, attrs: Attributes) -> Any:
    """Whether a constant is its own maximum: a dilated window may contain padding alone."""
    return not (any(attrs["padding"]) and attrs["dilation"] != (1, 1))


_WINDOW = {"kernel": "pair", "stride": "pair", "padding": "pair", "ceil_mode": "flag"}

POOLING = {
    "max_pool2d": Operator(
        _pool_shape,
        _run_max,
        attrs={**_WINDOW, "dilation": "pair"},
        captured={
            "max_pool2d": _capture_max,
            "max_pool2d_with_indices": _capture_max_with_indices,
        },
        onnx=_write_pool,
        channels=Spatial(_maximum_is_unchanged),
    ),
    "avg_pool2d": Operator(
        _pool_shape,
        _run_average,
        attrs={**_WINDOW, "count_include_pad": "flag"},
        captured={"avg_pool2d": _capture_average},
        onnx=_write_pool,
        channels=Spatial(_average_is_unchanged),
    ),
    "adaptive_avg_pool2d": Operator(
        map_shape,
        lambda x, t, a: F.adaptive_avg_pool2d(x[0], a["output"]),
        attrs={"output": "pair"},
        captured=dict.fromkeys(
            ("adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
            _capture_adaptive("adaptive_avg_pool2d"),
        ),
        onnx=_write_adaptive_average,
        channels=Spatial(),
    ),
    "adaptive_max_pool2d": Operator(
        map_shape,
        lambda x, t, a: F.adaptive_max_pool2d(x[0], a["output"]),
        attrs={"output": "pair"},
        captured={
            "adaptive_max_pool2d": lambda b, a, results: [
                _capture_adaptive("adaptive_max_pool2d")(b, a, results),
                None,
            ]
        },
        onnx=_write_adaptive_max,
        channels=Spatial(),
    ),
}
