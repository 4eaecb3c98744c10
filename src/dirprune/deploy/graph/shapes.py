"""The shape of every operator's result, from the shapes of what it reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dirprune.deploy.graph.operators import ACTIVATIONS, Attribute, Shape, check_size

Tensors = Mapping[str, Shape]
Attrs = Mapping[str, Any]
_Rule = Callable[[Shape, Tensors, Attrs], Shape]


def infer_shape(
    op: str, inputs: Sequence[Shape], tensors: Tensors, attrs: Mapping[str, Attribute]
) -> Shape:
    """Find the shape of a node's result.

    Args:
        op: A key of :data:`~operators.OPERATORS`; it has the right attributes.
        inputs: Shapes of the values that it reads.
        tensors: Shapes of its tensors by role.
        attrs: Its attributes.

    Returns:
        The shape, -1 first; that of its tensor for a constant.

    Raises:
        ValueError: If they do not fit each other.

    Example:
        >>> infer_shape("cat", [(-1, 3, 8), (-1, 5, 8)], {}, {"dim": 1})
        (-1, 8, 8)
    """
    if op == "constant":
        return tensors["value"]
    if op in ("add", "sub", "mul", "div"):
        shape = _binary(inputs, attrs)
    else:
        if any(shape[:1] != (-1,) for shape in inputs):
            raise ValueError("reads a constant: only add, sub, mul and div may")
        shape = _cat(inputs, attrs) if op == "cat" else _RULES[op](inputs[0], tensors, attrs)
        if op in ("conv2d", "linear", "affine"):
            _epilogue(shape, inputs[1:], attrs)
    check_size(shape[1:])
    return shape


def _epilogue(shape: Shape, residual: Sequence[Shape], attrs: Attrs) -> None:
    if any(other != shape for other in residual):
        raise ValueError(f"adds {residual[0]} to {shape}: a residual has the same shape")
    if not 0 <= attrs.get("activation", 0) < len(ACTIVATIONS):
        raise ValueError(f"activation must be 0 to {len(ACTIVATIONS) - 1}")


def _binary(inputs: Sequence[Shape], attrs: Attrs) -> Shape:
    if (len(inputs) == 2) == ("scalar" in attrs):
        raise ValueError("takes either two inputs or one and a scalar")
    if "reversed" in attrs and "scalar" not in attrs:
        raise ValueError("only a scalar can come first")
    batched = [shape for shape in inputs if shape[:1] == (-1,)]
    if not batched:
        raise ValueError("reads constants only")
    rank = len(batched[0])
    for shape in inputs:
        aligned = len(shape) == rank if shape in batched else len(shape) <= rank
        if not aligned or (len(shape) == rank and shape[0] not in (-1, 1)):
            raise ValueError(f"broadcasts {' and '.join(map(str, inputs))} along the batch")
    rows = [(1,) * (rank - len(shape)) + shape for shape in inputs]
    result = [-1]
    for dims in list(zip(*rows))[1:]:
        if len(set(dims) - {1}) > 1:
            raise ValueError(f"cannot broadcast {' and '.join(map(str, inputs))}")
        result.append(max(dims))
    return tuple(result)


def _cat(inputs: Sequence[Shape], attrs: Attrs) -> Shape:
    dim = _dim(inputs[0], attrs["dim"])
    rests = {shape[:dim] + shape[dim + 1 :] for shape in inputs}
    if len(rests) > 1 or len({len(shape) for shape in inputs}) > 1:
        raise ValueError(f"cannot join {' and '.join(map(str, inputs))} along dimension {dim}")
    return (*inputs[0][:dim], sum(shape[dim] for shape in inputs), *inputs[0][dim + 1 :])


def _conv2d(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    weight, groups = tensors["weight"], attrs["groups"]
    _rank(x, 4)
    _rank(weight, 4)
    if groups < 1 or weight[0] % groups or x[1] != weight[1] * groups:
        raise ValueError(f"a weight {weight} in {groups} groups does not fit {x[1]} channels")
    _vectors(tensors, {"bias": weight[0]})
    top, bottom, left, right = attrs["padding"]
    sizes = [
        _window(size, kernel, stride, low, high, dilation)
        for size, kernel, stride, (low, high), dilation in zip(
            x[2:], weight[2:], attrs["stride"], ((top, bottom), (left, right)), attrs["dilation"]
        )
    ]
    return (-1, weight[0], *sizes)


def _linear(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    weight = tensors["weight"]
    _rank(weight, 2)
    if len(x) < 2 or x[-1] != weight[1]:
        raise ValueError(f"a weight {weight} does not fit {x}")
    _vectors(tensors, {"bias": weight[0]})
    return (*x[:-1], weight[0])


def _channelwise(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    if len(x) < 2:
        raise ValueError(f"{x} has no channels")
    _vectors(tensors, dict.fromkeys(tensors, x[1]))
    if attrs.get("eps", 0.0) < 0 or not 0 <= attrs.get("momentum", 0.0) <= 1:
        raise ValueError("eps must be at least 0, momentum from 0 to 1")
    return x


def _same(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    if not 0 <= attrs.get("p", 0.0) <= 1:
        raise ValueError("p must be from 0 to 1")
    return x


def _softmax(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    _dim(x, attrs["dim"])
    return x


def _slice(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    dim = _dim(x, attrs["dim"])
    start, end, step = attrs["start"], attrs["end"], attrs["step"]
    if not 0 <= start < end <= x[dim] or step < 1:
        raise ValueError(f"cannot take {start}:{end}:{step} of {x[dim]}")
    return (*x[:dim], -(-(end - start) // step), *x[dim + 1 :])


def _pool(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    _rank(x, 4)
    sizes = []
    for size, kernel, stride, padding, dilation in zip(
        x[2:], attrs["kernel"], attrs["stride"], attrs["padding"], attrs.get("dilation", (1, 1))
    ):
        if padding > kernel // 2:
            raise ValueError(f"padding {padding} is more than half a window of {kernel}")
        sizes.append(
            _window(size, kernel, stride, padding, padding, dilation, ceil=attrs["ceil_mode"])
        )
    return (-1, x[1], *sizes)


def _resized(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    _rank(x, 4)
    return (-1, x[1], *attrs["output"])


def _mean(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    dims = {_dim(x, dim) for dim in attrs["dims"]}
    if len(dims) < len(attrs["dims"]):
        raise ValueError(f"dims {attrs['dims']} repeat")
    if attrs["keepdim"]:
        return tuple(1 if i in dims else size for i, size in enumerate(x))
    return tuple(size for i, size in enumerate(x) if i not in dims)


def _reshape(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    size: Shape = attrs["size"]
    check_size(size[1:])
    if size[0] != -1 or _product(size[1:]) != _product(x[1:]):
        raise ValueError(f"cannot make {size} of {x}: the batch stays, as does the number")
    return size


def _permute(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    dims = attrs["dims"]
    if sorted(dims) != list(range(len(x))) or dims[0] != 0:
        raise ValueError(f"cannot permute {x} by {dims}: the batch stays first")
    return tuple(x[dim] for dim in dims)


def _pad(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    _rank(x, 4)
    top, bottom, left, right = attrs["padding"]
    if min(attrs["padding"]) < 0:
        raise ValueError(f"padding {attrs['padding']} must be at least 0")
    return (-1, x[1], x[2] + top + bottom, x[3] + left + right)


def _layer_norm(x: Shape, tensors: Tensors, attrs: Attrs) -> Shape:
    dims = attrs["dims"]
    if not 1 <= dims < len(x):
        raise ValueError(f"cannot normalise {dims} trailing dimensions of {x}")
    if any(shape != x[-dims:] for shape in tensors.values()):
        raise ValueError(f"weight and bias must have shape {x[-dims:]}")
    if attrs["eps"] < 0:
        raise ValueError("eps must be at least 0")
    return x


def _window(
    size: int, kernel: int, stride: int, low: int, high: int, dilation: int, ceil: bool = False
) -> int:
    if min(kernel, stride, dilation) < 1 or min(low, high) < 0:
        raise ValueError("kernel, stride and dilation must be at least 1, padding at least 0")
    room = size + low + high - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(f"a window of {kernel} does not fit into {size}")
    count = (-(-room // stride) if ceil else room // stride) + 1
    # A window that would start in the padding behind the last pixel is left out.
    return count - 1 if ceil and (count - 1) * stride >= size + low else count


def _rank(shape: Shape, rank: int) -> None:
    if len(shape) != rank:
        raise ValueError(f"needs {rank} dimensions, got {shape}")


def _dim(x: Shape, dim: int) -> int:
    if not 1 <= dim < len(x):
        raise ValueError(f"dimension {dim} of {x} is not one of a sample")
    return dim


def _vectors(tensors: Tensors, sizes: Mapping[str, int]) -> None:
    for role, size in sizes.items():
        if tensors.get(role, (size,)) != (size,):
            raise ValueError(f"{role} must have shape ({size},), got {tensors[role]}")


def _product(dims: Sequence[int]) -> int:
    product = 1
    for dim in dims:
        product *= dim
    return product


_RULES: Mapping[str, _Rule] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _channelwise,
    "affine": _channelwise,
    "softmax": _softmax,
    "slice": _slice,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "adaptive_avg_pool2d": _resized,
    "adaptive_max_pool2d": _resized,
    "upsample_nearest": _resized,
    "upsample_bilinear": _resized,
    "mean": _mean,
    "reshape": _reshape,
    "permute": _permute,
    "pad": _pad,
    "layer_norm": _layer_norm,
    **dict.fromkeys(
        ("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "hardswish",
         "hardsigmoid", "dropout"),
        _same,
    ),
}  # fmt: skip
