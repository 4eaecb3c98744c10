"""Products of two values, and attention, which is made of them."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.channels import Channels
from dirprune.deploy.graph.operators.layouts import Layout, varying
from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Attributes, Operator, Shape, TensorShapes
from dirprune.deploy.graph.traced_sizes import largest, varies
from dirprune.deploy.graph.values import Constant, Value, plain_dims

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.graph import Node
    from dirprune.deploy.graph.values import Arguments
    from dirprune.deploy.shrinking.constants import ConstantInputs
    from dirprune.deploy.shrinking.liveness import Rules


def _shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    a, b = x
    if len(a) != len(b) or len(a) < 3 or a[-1] != b[-2]:
        raise ValueError(f"cannot multiply {a} by {b}")
    ahead = []
    for left, right in zip(a[:-2], b[:-2]):
        if left != right and 1 not in (left, right):
            raise ValueError(f"cannot multiply {a} by {b}")
        ahead.append(max(left, right) if -1 not in (left, right) else -1)
    return (*ahead, a[-2], b[-1])


def _capture(b: "Builder", a: "Arguments", results: Any) -> "Value":
    left, right = (
        a.self,
        next(getattr(a, key) for key in ("mat2", "other", "vec", "tensor") if hasattr(a, key)),
    )
    return multiply(b, left, right, results[0])


def multiply(b: "Builder", left: Any, right: Any, sizes: Shape | None = None) -> "Value":
    """Write a matrix product of values and constants of two or more dimensions.

    Args:
        b: The graph.
        left: With sizes (..., n, k).
        right: With sizes (..., k, m).
        sizes: Of the result; by default those that follow from values of one rank.
    """
    if len(b.sizes(right)) == 1:  # a vector is a matrix with one column
        y = multiply(b, left, b.reshape(right, (*b.sizes(right), 1)))
        return b.reshape(y, b.sizes(y)[:-1])
    if len(b.sizes(left)) == 1:
        y = multiply(b, b.reshape(left, (1, *b.sizes(left))), right)
        return b.reshape(y, (*b.sizes(y)[:-2], b.sizes(y)[-1]))
    if isinstance(right, Constant) and math.prod(right.tensor.shape[:-2]) == 1:
        b.axis(left, -1)
        weight = right.tensor.reshape(right.tensor.shape[-2:]).t().contiguous()
        return b.add("linear", [left], {}, {"weight": Constant(weight)})
    if isinstance(left, Constant) and left.tensor.dim() == 2 and len(b.sizes(right)) > 1:
        last = list(range(len(b.sizes(right))))
        last[-1], last[-2] = last[-2], last[-1]
        flipped = b.permute(right, last)
        b.axis(flipped, -1)
        return b.permute(b.add("linear", [flipped], {}, {"weight": left}), last)
    rank = max(len(b.sizes(left)), len(b.sizes(right)))
    left, right = (
        b.reshape(x, (1,) * (rank - len(b.sizes(x))) + b.sizes(x)) for x in (left, right)
    )
    if not any(_holds_batch(x) for x in (left, right)):
        return b.add("matmul", [b.as_value(left), b.as_value(right)])
    if _holds_batch(left) and not _holds_batch(right) and 0 in left.dims[-2]:
        return _multiply_rows(b, left, right)
    if _holds_batch(right) and not _holds_batch(left) and 0 in right.dims[-1]:
        last = [*range(rank - 2), rank - 1, rank - 2]
        turned = [b.permute(b.as_value(x), last) for x in (right, left)]
        return b.permute(_multiply_rows(b, *turned), last)
    ahead = next(b.sizes(x)[:-2] for x in (left, right) if _holds_batch(x))
    operands = []
    for x in (left, right):
        if not _holds_batch(x):
            place = next((i for i, size in enumerate(ahead) if size < 0), None)
            if place is None:
                raise ValueError("it multiplies along the batch")
            own = b.sizes(x)
            x = b.expand(x, (*own[:place], ahead[place], *own[place + 1 :]))
        operands.append(x)
    left, right = operands
    for x in operands:
        b.axis(x, -1), b.axis(x, -2)
    if left.dims[:-2] != right.dims[:-2]:
        raise ValueError("it multiplies values whose batch is in different places")
    return b.add("matmul", [left, right])


def _holds_batch(x: Any) -> bool:
    return bool(getattr(x, "holds_batch", False))


def _multiply_rows(b: "Builder", left: "Value", right: Any) -> "Value":
    """A product in which the batch is among the rows: every sample has rows of its own."""
    shape, own = b.graph_shape(left), left.dims
    alone = own[-2] == (0,)
    wide = (*shape[:-1], 1, shape[-1]) if alone else shape
    x = b.reshape(Value(left.number, plain_dims(len(shape))), wide)
    right = b.as_value(right)
    y = b.add("matmul", [x, Value(right.number, plain_dims(len(own) + 1))])
    after = b.sizes(y)
    y = b.reshape(y, (*after[:-2], after[-1])) if alone else y
    return Value(y.number, own)


def _capture_added(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write beta self + alpha (left @ right)."""
    left, right = (a.mat1, a.mat2) if hasattr(a, "mat1") else (a.batch1, a.batch2)
    product = b.multiplied(multiply(b, left, right, results[0]), a.alpha)
    return product if a.beta == 0 else b.combine("add", [product, b.multiplied(a.self, a.beta)])


def _capture_attention(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write softmax(query key^T scale + mask) value; a query that sees no key gives zeros."""
    if a.dropout_p:
        raise ValueError("it drops at random in evaluation mode too")
    queries, keys = b.sizes(a.query), b.sizes(a.key)
    scale = a.scale if getattr(a, "scale", None) is not None else 1 / math.sqrt(queries[-1])
    key, value = a.key, a.value
    if getattr(a, "enable_gqa", False) and keys[-3] != queries[-3]:
        key, value = (_repeated(b, x, queries[-3]) for x in (key, value))
    order = list(range(len(queries)))
    order[-1], order[-2] = order[-2], order[-1]
    scores = multiply(b, b.multiplied(a.query, scale), b.permute(key, order))
    if a.is_causal:
        rows, columns = queries[-2], keys[-2]
        kept = torch.ones(largest(rows), largest(columns)).tril()
        mask: Any = Constant(torch.zeros_like(kept).masked_fill(kept == 0, -math.inf))
        if varies((rows, columns)):
            mask = b.take(b.take(b.constant_value(mask), 0, 0, rows), 1, 0, columns)
        scores = b.combine("add", [scores, mask])
    if a.attn_mask is None:
        return multiply(b, _softmax(b, scores), value)
    scores, seeing = _masked(b, scores, a.attn_mask)
    y = multiply(b, _softmax(b, scores), value)
    return y if seeing is None else b.combine("mul", [y, seeing])


def _softmax(b: "Builder", scores: "Value") -> "Value":
    return b.add("softmax", [scores], {"dim": b.axis(scores, -1)})


_LOWEST = float(np.finfo(np.float32).min)
"""Instead of -infinity, whose softmax over a whole row is NaN; its exponential is 0 as well."""


def _masked(b: "Builder", scores: "Value", mask: Any) -> "tuple[Value, Any]":
    """The masked scores, and which queries see a key; None if all of them do."""
    if isinstance(mask, Constant):
        if mask.tensor.dtype == torch.bool:
            mask = Constant(torch.zeros(mask.tensor.shape).masked_fill(~mask.tensor, -math.inf))
        seeing = mask.tensor.amax(-1, keepdim=True) > -math.inf
        if seeing.all():
            return b.combine("add", [scores, mask]), None
        mask = Constant(mask.tensor.float().clamp(min=_LOWEST))
        return b.combine("add", [scores, mask]), Constant(seeing.float())
    if mask.number in b.booleans:
        scores = b.combine("where", [mask, scores, Constant(torch.tensor(_LOWEST))])
    else:
        scores = b.combine("add", [scores, b.add("clamp", [mask], {"low": _LOWEST})])
    if mask not in b.seeing:  # the layers of a network share their masks
        largest = b.reduce("amax", mask, -1, True)
        if mask.number not in b.booleans:
            largest = b.combine("gt", [largest, b.operand(-math.inf)])
        b.seeing[mask] = largest
    return scores, b.seeing[mask]


def _repeated(b: "Builder", x: "Value", heads: int) -> "Value":
    *ahead, own, length, width = b.sizes(x)
    x = b.reshape(x, (*ahead, own, 1, length, width))
    x = b.expand(x, (*ahead, own, heads // own, length, width))
    return b.reshape(x, (*ahead, heads, length, width))


class _Product(Channels):
    """An element of the result reads a row of the one and a column of the other.

    Heads, rows, columns, and the terms of the sums are removed from all values together.
    """

    def constants(self, known: "ConstantInputs") -> Layout:
        left, right = known.inputs
        if not _few_terms(left, right):
            return varying(known.rank)
        zero = _terms(left == 0, right == 0, np.logical_or).all(axis=-1)
        return np.where(zero, 0.0, np.nan)

    def numbers(
        self, rules: "Rules", node: "Node", shapes: Sequence[Shape], inputs: list[Layout]
    ) -> Layout | None:
        from dirprune.deploy.shrinking.liveness import Follows, SameLines

        left, right = inputs
        if not _few_terms(left, right):
            return None
        heads = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        result = rules.fresh(*heads, left.shape[-2], right.shape[-1])
        known = [rules.constants[value] for value in node.inputs]
        read = _terms(known[0] != 0, known[1] != 0, np.logical_and)
        for numbers in (_terms(left, right, lambda a, _: a), _terms(left, right, lambda _, b: b)):
            numbers, needed, sources = np.broadcast_arrays(numbers, read, result[..., None])
            rules.add(Follows(sources[needed], numbers[needed], "read", is_need=True))
        rows, columns, rank = result.ndim - 2, result.ndim - 1, result.ndim
        tied = [(left, rows, result, rows), (right, columns, result, columns)]
        tied += [(left, columns, right, rows)]
        for axis in range(rank - 2):
            for layout, shape in zip(inputs, shapes):
                if shape[axis + 1] == node.shape[axis + 1]:
                    tied.append((layout, axis, result, axis))
        for one, axis, other, other_axis in tied:
            if one.shape[axis] > 1 or other.shape[other_axis] > 1:
                rules.add(SameLines(one, axis, other, other_axis))
                rules.add(SameLines(other, other_axis, one, axis))
        return result


def _few_terms(left: Layout, right: Layout) -> bool:
    shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    terms = max(left.shape[-1], right.shape[-2])
    return bool(math.prod(shape) * left.shape[-2] * right.shape[-1] * terms <= _MOST_TERMS)


def _terms(left: Layout, right: Layout, combine: Callable[[Layout, Layout], Layout]) -> Layout:
    """Combine what holds for the factors of every product, with shape (..., n, m, k)."""
    factors = np.broadcast_arrays(left[..., :, None, :], right.swapaxes(-1, -2)[..., None, :, :])
    return combine(*factors)


_MOST_TERMS = 1 << 24

ATTENTION = {
    "matmul": Operator(
        _shape,
        lambda x, t, a: torch.matmul(x[0], x[1]),
        inputs=(2, 2),
        captured={
            **dict.fromkeys(("matmul", "bmm", "mm", "mv", "dot"), _capture),
            **dict.fromkeys(("addmm", "baddbmm"), _capture_added),
            "scaled_dot_product_attention": _capture_attention,
        },
        onnx="MatMul",
        channels=_Product(),
    ),
}
