"""The record of an operator, which all parts of the package use."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.layouts import Shape as Shape
from dirprune.deploy.graph.traced_sizes import least

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.lowering import Lowering
    from dirprune.deploy.onnx_writer import Writer

Attribute = int | float | tuple[int, ...]
TensorShapes = Mapping[str, Shape]
Attributes = Mapping[str, Any]
ShapeRule = Callable[[Sequence[Shape], TensorShapes, Attributes], Shape]

MOST = 1 << 16
"""Nodes, and tensors, that a graph may have."""
LARGEST = 1 << 40
"""Elements that a tensor, or a value per sample, must stay below."""
LONGEST = 1024
"""Bytes of a name or path in UTF-8."""
_INTEGERS = 1 << 31  # dimensions and integer attributes stay below, so that 32 bits hold them

ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu",
               "sigmoid", "tanh", "hardswish", "hardsigmoid", "mish", "selu", "exp",
               "expm1")  # fmt: skip
"""What attribute ``activation`` of a lowered node counts from 0."""
EPILOGUE = {"activation": "int", "activation_parameter": "float"}
"""Optional attributes of operators that may end with a residual and an activation."""


@dataclass(frozen=True)
class Operator:
    """One operator of a graph. The engine has the same table in C++ (``cpp/engine/operators``).

    Attributes come with their kind: ``int``, ``flag`` (0 or 1), ``float`` (finite), ``pair`` (two
    integers), ``four`` or ``ints`` (one or more).

    Attributes:
        shape: The shape of the result, from those of the inputs, tensors and attributes; it
            raises ``ValueError`` if they do not fit each other.
        run: The operator in torch: ``run(inputs, tensors, attributes)``.
        inputs: Minimum and maximum number of values that it reads.
        tensors: Roles of the required tensors.
        optional_tensors: Roles of the optional tensors.
        attrs: Required attributes with their kinds.
        optional_attrs: Optional attributes with their kinds.
        captured: The ATen operators that are captured as this operator, by name, each with a
            function that writes the node: ``capture(builder, arguments, result_shapes)``.
        onnx: The name of ONNX's operator with the same inputs, or a function that writes it; None
            if only lowered graphs have this operator.
        channels: Its effect on channels that are constant or unused.
        epilogue: Whether a lowered node may also add a residual and apply an activation.
        reads_constants: Whether an input may be a constant; all others have the batch first.
        reads_batch: Whether ``run`` also takes ``batch``, the size of the batch.
        lower: Writes the node with other operators for the engine, which then has no such
            operator: ``lower(lowering, node)`` returns the number of the value.
        trains: Whether it acts differently in training: ``run`` then takes ``training`` as well.
    """

    shape: ShapeRule
    run: "Callable[..., Tensor]"
    inputs: tuple[int, int] = (1, 1)
    tensors: tuple[str, ...] = ()
    optional_tensors: tuple[str, ...] = ()
    attrs: Mapping[str, str] = field(default_factory=dict)
    optional_attrs: Mapping[str, str] = field(default_factory=dict)
    captured: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    onnx: "str | Callable[[Writer, Any], object] | None" = None
    channels: Channels = field(default_factory=Channels)
    epilogue: bool = False
    reads_constants: bool = False
    reads_batch: bool = False
    lower: "Callable[[Lowering, Node], int] | None" = None
    trains: bool = False


def check_size(dims: Iterable[int]) -> None:
    """Refuse dimensions below 1 and products that are too large.

    Raises:
        ValueError: If there are such.
    """
    product = 1
    for dim in dims:
        product *= dim
        if not 1 <= dim < _INTEGERS or product >= LARGEST:
            raise ValueError(f"a dimension of {dim} is out of range")


def check_attribute(key: str, value: Attribute, kind: str) -> None:
    """Refuse an attribute of another kind.

    Args:
        key: Its name.
        value: What is checked.
        kind: As :class:`Operator` lists them.

    Raises:
        ValueError: If the value is not of this kind.
    """
    if kind == "float":
        fits = isinstance(value, float) and math.isfinite(value)
    elif kind in ("int", "flag"):
        fits = _is_integer(value) and (kind == "int" or value in (0, 1))
    else:
        low, high = {"pair": (2, 2), "four": (4, 4), "ints": (1, 8)}[kind]
        fits = (
            isinstance(value, tuple) and low <= len(value) <= high and all(map(_is_integer, value))
        )
    if not fits:
        raise ValueError(f"attribute {key} must be {kind}, got {value!r:.99}")


def check_rank(shape: Shape, rank: int) -> None:
    """Refuse a shape with another number of dimensions."""
    if len(shape) != rank:
        raise ValueError(f"needs {rank} dimensions, got {shape}")


def check_dim(shape: Shape, dim: int) -> int:
    """Refuse a dimension that does not exist, or is the batch; return it otherwise."""
    if not 1 <= dim < len(shape):
        raise ValueError(f"dimension {dim} of {shape} is not one of a sample")
    return dim


def check_vectors(tensors: TensorShapes, sizes: Mapping[str, int]) -> None:
    """Refuse tensors that do not have one entry for every channel."""
    for role, size in sizes.items():
        if tensors.get(role, (size,)) != (size,):
            raise ValueError(f"{role} must have shape ({size},), got {tensors[role]}")


def count_windows(
    size: int, kernel: int, stride: int, low: int, high: int, dilation: int, ceil: bool = False
) -> int:
    """Count the windows along one dimension, as convolutions and pooling place them."""
    if min(kernel, stride, dilation) < 1 or min(low, high) < 0:
        raise ValueError("kernel, stride and dilation must be at least 1, padding at least 0")
    room = size + low + high - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(f"a window of {kernel} does not fit into {size}")
    count = (-(-room // stride) if ceil else room // stride) + 1
    # A window that would start in the padding behind the last pixel is left out.
    return least(count, (size + low - 1) // stride + 1) if ceil else count


def same_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    """The shape rule of operators on single elements."""
    return x[0]


def _is_integer(value: object) -> bool:
    return type(value) is int and abs(value) < _INTEGERS
