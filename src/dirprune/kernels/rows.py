"""Arguments of the kernels: rows of tensors, and the update rule."""

from typing import Any, NamedTuple

from torch import Tensor, nn

Scalar = float | Tensor

PLAIN = frozenset({Tensor, nn.Parameter})
"""Tensor classes whose memory holds the values; other classes may be wrappers."""


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
