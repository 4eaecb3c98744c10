"""Valid graphs of one operator with extreme sizes, attributes and values, from its record.

Attributes are drawn by name and kind, shapes from what the operator reads. Draws that the shape
rule refuses are repeated. A new operator needs an entry below only if its attributes, tensors or
inputs are of a new kind.
"""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from deploy.drawn_graphs import Sketch
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import ACTIVATIONS, Shape
from dirprune.deploy.graph.shapes import infer_shape

SIZES = (1, 1, 1, 2, 3, 4, 5, 7, 8, 13, 17, 31)
LARGEST = 3000
"""Elements that a value may have per sample."""
ATTEMPTS = 3000
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-20, -1e20)
COUNTS = {"int": 1, "flag": 1, "pair": 2, "four": 4}
BEFORE = ("abs", "permute", "reshape", "slice", "cat", "expand", "trunc", "clamp")
"""Operators that are exact, and so may precede one that is not continuous."""
AFTER = ("relu", "hardswish", "leaky_relu", "affine", "batch_norm", "add", "mul", "permute")
"""Operators that do not magnify rounding errors."""


# ---- attributes by name: f(random, shape of the first input, kind)


def _several(low: int, high: int, sides: int = 1) -> Callable[..., Any]:
    """Integers, as many as the kind says, or ``sides`` for each size of space."""

    def draw(r: Random, shape: Shape, kind: str) -> Any:
        count = COUNTS.get(kind, sides * (len(shape) - 2))
        numbers = tuple(r.randint(low, high) for _ in range(count))
        return numbers[0] if kind in ("int", "flag") else numbers

    return draw


def _number(*values: float) -> Callable[..., Any]:
    return lambda r, shape, kind: r.choice(values)


def _dims(r: Random, shape: Shape, kind: str) -> Any:
    dims = r.sample(range(1, len(shape)), r.randint(1, len(shape) - 1)) if len(shape) > 1 else []
    if kind == "int":
        return max(len(dims), 1)
    return (
        tuple(dims) if r.random() < 0.5 else (0, *r.sample(range(1, len(shape)), len(shape) - 1))
    )


def _size(r: Random, shape: Shape, kind: str) -> Any:
    """Other factors of the same number of elements, or the shape with dimensions expanded."""
    if r.random() < 0.5:
        return tuple(r.choice(SIZES) if size == 1 and r.random() < 0.5 else size for size in shape)
    factors, rest = [], math.prod(shape[1:])
    while rest > 1 and len(factors) < 6:
        factor = r.choice([f for f in range(1, rest + 1) if rest % f == 0])
        factors.append(factor)
        rest //= factor
    return (-1, *factors, rest)


_flag = _several(0, 1)
ATTRIBUTES: dict[str, Callable[..., Any]] = {
    "stride": _several(1, 4), "dilation": _several(1, 3), "kernel": _several(1, 5),
    "padding": _several(0, 3, sides=2), "output_padding": _several(0, 2),
    "output": _several(1, 19),
    "start": _several(0, 5), "end": _several(1, 31), "step": _several(1, 4),
    "groups": lambda r, shape, kind: r.choice([1, *shape[1:2], 2, 3]),
    "dim": lambda r, shape, kind: r.randint(1, max(len(shape) - 1, 1)), "dims": _dims,
    "size": _size, "activation": _several(0, len(ACTIVATIONS) - 1),
    "activation_parameter": _number(0.0, 0.3, 1.0),
    "tanh": _flag, "reversed": _flag, "ceil_mode": _flag, "count_include_pad": _flag,
    "keepdim": _flag, "align_corners": _flag, "trained": _flag, "descending": _flag,
    "eps": _number(1e-5, 1e-12, 0.1), "p": _number(0.0, 0.5, 1.0),
    "momentum": _number(0.0, 0.1, 1.0), "beta": _number(0.5, 1.0, 20.0),
    "threshold": _number(0.0, 1.0, 20.0),
    "exponent": _number(-2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0),
    "low": _number(-1.0, 0.0, 0.5), "high": _number(-0.5, 0.5, 6.0),
    "slope": _number(-0.1, 0.0, 0.3), "alpha": _number(0.0, 0.5, 2.0),
    "scalar": _number(*NUMBERS), "value": _number(*NUMBERS),
}  # fmt: skip


# ---- tensors and further inputs


def _filters(r: Random, shape: Shape, attrs: Any) -> Shape:
    kernel = [r.choice((1, 1, 2, 3, 5)) for _ in shape[2:]]
    return (attrs["groups"] * r.choice((1, 2, 5)), shape[1] // attrs["groups"], *kernel)


def _transposed_filters(r: Random, shape: Shape, attrs: Any) -> Shape:
    outputs, _, *kernel = _filters(r, shape, attrs)
    return (shape[1], outputs // attrs["groups"], *kernel)


WEIGHTS: dict[str, Callable[[Random, Shape, Any], Shape]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _filters),
    "conv_transpose2d": _transposed_filters,
    "linear": lambda r, shape, attrs: (r.choice(SIZES), shape[-1]),
    "embedding": lambda r, shape, attrs: (r.choice(SIZES), r.choice((1, 3, 8))),
}
"""Shapes of the weights that are not a vector with one entry per channel."""


def _tensor(op: str, role: str, r: Random, shape: Shape, attrs: Any, held: Any) -> Any:
    rng = np.random.default_rng(r.getrandbits(32))
    if role == "num_batches_tracked":
        return np.float32(r.randint(0, 9))
    if role == "index":
        return rng.integers(shape[attrs["dim"]], size=r.choice(SIZES)).astype(np.float32)
    if role == "value":
        return values(rng, r.choice(KINDS), _broadcast(r, shape, False))
    if role == "bias" and op == "conv_transpose2d":
        size: Shape = (held["weight"].shape[1] * attrs["groups"],)
    elif role == "bias" and OPERATORS[op].tensors == ("weight",):
        size = held["weight"].shape[:1]
    elif op == "layer_norm":
        size = shape[-attrs["dims"] :]
    elif role == "weight" and op in WEIGHTS:
        size = WEIGHTS[op](r, shape, attrs)
    else:
        size = (shape[1],)
    array = values(rng, "plain", size) * (rng.random(size) < r.choice((0.0, 0.1, 0.5, 1.0)))
    return np.abs(array) if role == "running_var" else array.astype(np.float32)


def _broadcast(r: Random, shape: Shape, batched: bool) -> Shape:
    """A shape that broadcasts with another one; without -1 for a constant."""
    sizes = [r.choice((1, size)) if size > 1 else r.choice(SIZES) for size in shape[1:]]
    return (-1, *sizes) if batched else tuple(sizes[r.randint(0, len(sizes)) :])


def _other(op: str, r: Random, shape: Shape, attrs: Any) -> Shape:
    """The shape of a further input."""
    if op == "matmul":
        ahead = [r.choice((1, size)) if size > 1 else size for size in shape[:-2]]
        return (*ahead, shape[-1], r.choice(SIZES))
    if op == "gather":
        sizes = [r.randint(1, size) for size in shape[1:]]
        sizes[attrs["dim"] - 1] = r.choice(SIZES)
        return (-1, *sizes)
    if op == "cat":
        dim = attrs["dim"]
        return (*shape[:dim], r.choice(SIZES), *shape[dim + 1 :])
    return _broadcast(r, shape, r.random() < 0.5)


# ---- values

KINDS = ("plain", "whole", "special", "huge", "tiny")


def values(rng: np.random.Generator, kind: str, size: tuple[int, ...]) -> Any:
    """Random numbers: normal, whole with ties, with infinities and NaN, huge, or denormal."""
    array = rng.standard_normal(size)
    if kind == "whole":
        array = np.round(2 * array)
    if kind == "special":
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, 88.8, -104.0, 1e30])
        array = np.where(rng.random(size) < 0.2, rng.choice(special, size), array)
    if kind == "huge":
        array = array * 10.0 ** rng.integers(8, 18, size)
    if kind == "tiny":
        array = array * 10.0 ** rng.integers(-44, -30, size)
    return np.asarray(array, np.float32)


# ---- graphs


def hostile_graph(op: str, r: Random) -> Graph:
    """A graph of one operator, at times with others before and after it."""
    for _ in range(ATTEMPTS):
        sizes = [r.choice(SIZES) for _ in range(r.choice((0, 1, 2, 3, 3, 3, 4, 4)))]
        sketch = Sketch(*sizes)
        try:
            x = 0
            for name in (*r.sample(BEFORE, r.choice((0, 0, 1, 2))), op,
                         *r.sample(AFTER, r.choice((0, 0, 1, 2)))):  # fmt: skip
                x = _append(sketch, name, r, x)
                if max(math.prod(shape[1:]) for shape in sketch.shapes) > LARGEST:
                    raise ValueError("too large")
            return sketch.graph()
        except (ValueError, IndexError):  # the draw does not fit
            continue
    raise AssertionError(f"no valid graph of {op}: say how its tensors and attributes are drawn")


def _append(sketch: Sketch, op: str, r: Random, x: int) -> int:
    record, shape = OPERATORS[op], sketch.shapes[x]
    kinds = {
        **record.attrs,
        **{k: v for k, v in record.optional_attrs.items() if r.random() < 0.5},
    }
    attrs = {key: ATTRIBUTES[key](r, shape, kind) for key, kind in kinds.items()}
    tensors: dict[str, Any] = {}
    for role in (*record.tensors, *(t for t in record.optional_tensors if r.random() < 0.5)):
        tensors[role] = _tensor(op, role, r, shape, attrs, tensors)
    if record.inputs[1] == 0:  # a constant
        return sketch.add("add", x, sketch.add(op, tensors=tensors, **attrs))
    if op == "embedding":
        x = _places(sketch, x, len(tensors["weight"]))
    inputs = [x]
    for _ in range(r.randint(max(record.inputs[0], 1), min(record.inputs[1], 4)) - 1):
        if record.epilogue:
            own = {role: tensor.shape for role, tensor in tensors.items()}
            wanted = infer_shape(op, [shape], own, attrs)
        else:
            wanted = _other(op, r, shape, attrs)
        inputs.append(_further(sketch, r, x, wanted))
    if op == "gather":
        inputs[1] = _places(sketch, inputs[1], shape[attrs["dim"]])
    if record.reads_constants:
        r.shuffle(inputs)
    return sketch.add(op, *inputs, tensors=tensors, **attrs)


def _further(sketch: Sketch, r: Random, x: int, shape: Shape) -> int:
    """A constant, or a value with the elements of another one in another order and number."""
    if shape[:1] != (-1,):
        rng = np.random.default_rng(r.getrandbits(32))
        return sketch.constant(values(rng, r.choice(KINDS), shape))
    if shape == sketch.shapes[x] and r.random() < 0.5:
        return x
    flat = sketch.flatten(x)
    index = np.arange(math.prod(shape[1:])) * 7 % sketch.shapes[flat][1]
    return sketch.add(
        "reshape", sketch.add("take", flat, tensors={"index": index}, dim=1), size=shape
    )


def _places(sketch: Sketch, x: int, count: int) -> int:
    """Whole numbers below ``count``, also where x is NaN."""
    x = sketch.add("where", sketch.add("eq", x, x), x, sketch.constant(0.0))
    return sketch.add("trunc", sketch.add("clamp", x, low=0.0, high=count - 1.0))
