"""The operators of a graph: what a node of each kind must and may have."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Attribute = int | float | tuple[int, ...]
Shape = tuple[int, ...]

MOST = 1 << 16
"""Nodes, and tensors, that a graph may have."""
LARGEST = 1 << 40
"""Elements that a tensor, or a value per sample, must stay below."""
LONGEST = 1024
"""Bytes of a name or path in UTF-8."""
_INTEGERS = 1 << 31  # dimensions and integer attributes stay below, so that 32 bits hold them


class Operator(NamedTuple):
    """What a node of one kind must and may have.

    Attributes come with their kind: ``int``, ``flag`` (0 or 1), ``float`` (finite), ``pair`` (two
    integers), ``four`` or ``ints`` (one or more).
    """

    inputs: tuple[int, int] = (1, 1)
    tensors: tuple[str, ...] = ()
    optional_tensors: tuple[str, ...] = ()
    attrs: Mapping[str, str] = {}
    optional_attrs: Mapping[str, str] = {}


_EPILOGUE = {"activation": "int", "activation_parameter": "float"}
_UNARY = Operator()
_BINARY = Operator(inputs=(1, 2), optional_attrs={"scalar": "float"})
_REVERSIBLE = Operator(inputs=(1, 2), optional_attrs={"scalar": "float", "reversed": "flag"})
_WINDOW = {"kernel": "pair", "stride": "pair", "padding": "pair", "ceil_mode": "flag"}
_RESIZED = Operator(attrs={"output": "pair"})

OPERATORS: Mapping[str, Operator] = {
    "conv2d": Operator(
        (1, 2),
        ("weight",),
        ("bias",),
        {"stride": "pair", "padding": "four", "dilation": "pair", "groups": "int"},
        _EPILOGUE,
    ),
    "linear": Operator((1, 2), ("weight",), ("bias",), {}, _EPILOGUE),
    "batch_norm": Operator(
        (1, 1),
        ("running_mean", "running_var"),
        ("weight", "bias"),
        {"eps": "float"},
        {"momentum": "float"},
    ),
    "affine": Operator((1, 2), ("scale", "shift"), (), {}, _EPILOGUE),
    "relu": _UNARY,
    "relu6": _UNARY,
    "leaky_relu": Operator(attrs={"slope": "float"}),
    "elu": Operator(attrs={"alpha": "float"}),
    "gelu": Operator(attrs={"tanh": "flag"}),
    "silu": _UNARY,
    "sigmoid": _UNARY,
    "tanh": _UNARY,
    "hardswish": _UNARY,
    "hardsigmoid": _UNARY,
    "softmax": Operator(attrs={"dim": "int"}),
    "add": _BINARY,
    "sub": _REVERSIBLE,
    "mul": _BINARY,
    "div": _REVERSIBLE,
    "constant": Operator((0, 0), ("value",), optional_attrs={"trained": "flag"}),
    "cat": Operator((1, 255), attrs={"dim": "int"}),
    "slice": Operator(attrs={"dim": "int", "start": "int", "end": "int", "step": "int"}),
    "max_pool2d": Operator(attrs={**_WINDOW, "dilation": "pair"}),
    "avg_pool2d": Operator(attrs={**_WINDOW, "count_include_pad": "flag"}),
    "adaptive_avg_pool2d": _RESIZED,
    "adaptive_max_pool2d": _RESIZED,
    "mean": Operator(attrs={"dims": "ints", "keepdim": "flag"}),
    "reshape": Operator(attrs={"size": "ints"}),
    "permute": Operator(attrs={"dims": "ints"}),
    "pad": Operator(attrs={"padding": "four", "value": "float"}),
    "upsample_nearest": _RESIZED,
    "upsample_bilinear": Operator(attrs={"output": "pair", "align_corners": "flag"}),
    "layer_norm": Operator((1, 1), (), ("weight", "bias"), {"dims": "int", "eps": "float"}),
    "dropout": Operator(attrs={"p": "float"}),
}
"""The operators, in the order of their codes in a file."""

ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu",
               "sigmoid", "tanh", "hardswish", "hardsigmoid")  # fmt: skip
"""What attribute ``activation`` of a lowered node counts from 0."""


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


def _is_integer(value: object) -> bool:
    return type(value) is int and abs(value) < _INTEGERS
