"""What a device kernel is given: rows of tensors, and the rule by which they move."""

from typing import Any, NamedTuple

from torch import Tensor, nn

Scalar = float | Tensor

PLAIN = frozenset({Tensor, nn.Parameter})
"""Classes of tensors whose memory is the numbers themselves; others may be wrappers."""


class Row(NamedTuple):
    """One parameter: weights, accumulator, gradient and the running averages of the direction."""

    w: Any
    v: Any
    """None: the weights are dense and move themselves."""
    grad: Any
    """None where only the threshold changes."""
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
