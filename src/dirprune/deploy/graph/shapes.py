"""The shape of every operator's result, from the shapes of what it reads."""

from collections.abc import Mapping, Sequence

from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.operators.record import (
    ACTIVATIONS,
    Attribute,
    Attributes,
    Shape,
    TensorShapes,
    check_size,
)


def infer_shape(
    op: str, inputs: Sequence[Shape], tensors: TensorShapes, attrs: Mapping[str, Attribute]
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
    record = OPERATORS[op]
    if not record.reads_constants and any(shape[:1] != (-1,) for shape in inputs):
        raise ValueError("reads a constant: this operator reads values only")
    shape = record.shape(inputs, tensors, attrs)
    if op == "constant":
        return shape
    if len(shape) > 8:
        raise ValueError(f"{shape} has more than 8 dimensions")
    check_size(shape[1:])
    if record.epilogue:
        _check_epilogue(shape, inputs[1:], attrs)
    return shape


def _check_epilogue(shape: Shape, residual: Sequence[Shape], attrs: Attributes) -> None:
    if any(other != shape for other in residual):
        raise ValueError(f"adds {residual[0]} to {shape}: a residual has the same shape")
    if not 0 <= attrs.get("activation", 0) < len(ACTIVATIONS):
        raise ValueError(f"activation must be 0 to {len(ACTIVATIONS) - 1}")
