"""Arguments of the kernels: rows of tensors, and the update rule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

Scalar = float | Tensor

PLAIN = frozenset({Tensor, nn.Parameter})
"""Tensor classes whose memory holds the values; other classes may be wrappers."""


def addresses_of(*columns: Sequence[Any]) -> list[list[int]]:
    """The addresses of the tensors of each column, without the columns that hold None."""
    return [list(map(Tensor.data_ptr, column)) for column in columns if column[0] is not None]


def order(t: Tensor) -> list[tuple[int, int]]:
    """Strides and sizes of the dimensions larger than 1: the order of the elements in memory."""
    return [(stride, size) for stride, size in zip(t.stride(), t.shape) if size > 1]


class Row(NamedTuple):
    """One parameter: weights, accumulator, gradient and the running averages of the direction."""

    w: Any
    v: Any
    """None if the weights are dense and are updated directly."""
    grad: Any
    """None if only the threshold changes."""
    m: Any
    """SGD's momentum or Adam's first moment, or None."""
    s: Any
    """Adam's second moment, or None."""


class Gradient(NamedTuple):
    r"""SGD's direction: :math:`m \leftarrow \beta m + \nabla f + \lambda w`."""

    lr: Scalar
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False


class Adam(NamedTuple):
    """Adam's direction at its n-th step, with decoupled weight decay."""

    lr: Scalar
    n: Scalar
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False
