"""The size of the batch as a number, and the place of every sample in it.

Both read a value only for its batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Attributes, Operator, Shape, TensorShapes
from dirprune.deploy.graph.traced_sizes import largest
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    return (-1,)


def _run_size(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    return x[0].new_full((x[0].shape[0],), x[0].shape[0])


def _run_index(x: "list[Tensor]", t: Any, a: Attributes) -> "Tensor":
    return torch.arange(x[0].shape[0], dtype=x[0].dtype, device=x[0].device)


def _capture_scalar(b: "Builder", a: "Arguments", results: Any) -> "Value":
    return a.s  # type: ignore[no-any-return]


def count_up(b: "Builder", size: Any) -> "Value":
    """0, 1, 2, ... for every sample, as many as a size that may vary."""
    place = b.take(b.constant_value(Constant(torch.arange(largest(size)))), 0, 0, size)
    b.ranges.add(place.number)
    return place


def _capture_arange(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write start + step i; of c times the batch, i is c times the sample's place and a rest."""
    start, step = getattr(a, "start", 0), getattr(a, "step", 1)
    size = results[0][0]
    if size < 0:
        place = b.multiplied(b.batch_index(), -size)
        if size < -1:
            rest = b.constant_value(Constant(torch.arange(-size)))
            place = b.combine("add", [b.expand(b.reshape(place, (-1, 1)), (-1, -size)), rest])
            place = b.reshape(place, (size,))
        if start == 0 and step == 1:
            b.batch_ranges.add(place.number)
    else:
        place = count_up(b, size)
    place = b.multiplied(place, step)
    return place if start == 0 else b.combine("add", [place, b.operand(start)])


def _write_size(w: "Writer", n: "OnnxNode") -> None:
    size = w.add("Cast", [w.batch_size()], to=1)
    w.add("Expand", [size, w.batch_size()], n.name)


def _write_index(w: "Writer", n: "OnnxNode") -> None:
    size = w.add("Squeeze", [w.batch_size()])
    zero, one = (w.tensor(np.array(i, np.int64), f"integer.{i}") for i in (0, 1))
    w.add("Cast", [w.add("Range", [zero, size, one])], n.name, to=1)


BATCH = {
    "batch_size": Operator(
        _shape,
        _run_size,
        captured={"scalar_tensor": _capture_scalar},
        onnx=_write_size,
    ),
    "batch_index": Operator(
        _shape,
        _run_index,
        captured={"arange": _capture_arange},
        onnx=_write_index,
    ),
}
