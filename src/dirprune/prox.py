"""Threshold functions, which are pure functions of a tensor, and their inverse."""

import math
from typing import Any

import torch
from torch import Tensor


def soft_threshold(v: Tensor, g: float) -> Tensor:
    r"""Shrink every entry of ``v`` towards zero by ``g``.

    The proximal operator of :math:`g\|\cdot\|_1`, written as the identity minus the projection
    onto the box :math:`[-g, g]` (Moreau), so that small entries become exactly ``0.0``: never
    ``-0.0``, and never NaN at :math:`g = 0`.

    .. math:: S_g(v) = \operatorname{sign}(v)\,[\,|v| - g\,]_+ = v - \operatorname{clip}(v, -g, g)

    Args:
        v: Any shape, floating point.
        g: Threshold :math:`0 \le g < \infty`, in the units of ``v``.

    Returns:
        A new tensor with the shape, dtype and device of ``v``; NaN stays NaN.

    Raises:
        ValueError: If ``g`` is negative, infinite or NaN.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), the map from v to w in
        the gRDA iteration, https://arxiv.org/abs/2006.09358

    Example:
        >>> import torch
        >>> soft_threshold(torch.tensor([-3.0, -0.5, 2.0]), 1.0)
        tensor([-2.,  0.,  1.])
    """
    return power_threshold(v, g, 1.0)


def power_threshold(v: Tensor, g: float | Tensor, power: float) -> Tensor:
    r"""Set entries of magnitude up to ``g`` to zero, and shrink the others towards zero.

    .. math::
        T_p(v, g) = \operatorname{sign}(v)\,[\,|v|^p - g^p\,]_+^{1/p}
                  = v\,\bigl(1 - (g / |v|)^p\bigr)^{1/p} \;\text{ where } |v| > g

    :math:`p = 1` is the soft threshold, bit for bit, and :math:`p = \infty` the hard one. Between
    them the bias :math:`v - T_p(v, g)` vanishes like :math:`g^p / (p\,|v|^{p-1})` for large
    :math:`|v|`. The map is odd, monotone and continuous for finite p. Only :math:`p = 1` is
    1-Lipschitz: for :math:`p > 1` the slope is unbounded at :math:`|v| = g`, so a weight that has
    just crossed the threshold reacts strongly to a small change of v.

    Args:
        v: Any shape, floating point.
        g: Threshold :math:`0 \le g < \infty`, in the units of ``v``; a number, or a tensor that
            broadcasts with ``v`` (which is not checked).
        power: :math:`p \ge 1`; ``math.inf`` is the hard threshold.

    Returns:
        A new tensor with the shape, dtype and device of ``v``. Zeros are ``0.0``, never ``-0.0``;
        NaN stays NaN.

    Raises:
        ValueError: If ``g`` or ``power`` is out of its range.

    References:
        Feather: An Elegant Solution to Effective DNN Sparsification (Glentis Georgoulakis et al.,
        2023), which uses :math:`p = 3`, https://arxiv.org/abs/2310.02448

    Example:
        >>> import torch
        >>> power_threshold(torch.tensor([-5.0, -2.5, 0.0, 3.0]), 3.0, power=2)
        tensor([-4.,  0.,  0.,  0.])
        >>> power_threshold(torch.tensor([-5.0, 2.5]), 3.0, power=math.inf)
        tensor([-5.,  0.])
    """
    check_power(power)
    if not isinstance(g, Tensor) and not 0 <= g < math.inf:
        raise ValueError(f"the threshold g must be at least 0 and finite, got {g}")
    level: Any = g  # torch's overloads do not accept unions
    if power == 1:
        return v - v.clamp(-level, level)
    size = v.abs().clamp(max=torch.finfo(v.dtype).max)
    if power == math.inf:
        w = v
    elif power == 2:
        excess = (size - g) / size  # 1 - g / |v|, without cancellation near g
        # in float64, because torch's float32 square root on CPUs is not always rounded correctly
        w = v * (excess * (2 - excess)).double().sqrt().to(v.dtype)
    else:
        # in float64, because vectorised pow and its scalar remainder differ in the last bit
        excess = (size.double() - g) / size
        shrunk = -(power * (-excess).log1p()).expm1()  # 1 - (g / |v|)^p
        w = (v * shrunk.pow(1 / power)).to(v.dtype)
    return torch.where(size <= g, 0.0, w)


def invert_threshold(w: Tensor, v: Tensor, g: float | Tensor, power: float) -> Tensor:
    r"""Return the point nearest to ``v`` whose threshold is ``w``.

    .. math::
        \operatorname{sign}(w)\,(|w|^p + g^p)^{1/p} \;\text{ where } w \ne 0, \qquad
        \operatorname{clip}(v, -g, g) \;\text{ where } w = 0

    A weight below about :math:`g\,\varepsilon^{1/p}`, where :math:`\varepsilon` is the rounding
    unit of the dtype, is lost in the rounding of the result and becomes zero. The hard threshold
    never gives weights up to :math:`g`; they become zero as well.

    Args:
        w: Weights, any shape, of the dtype of ``v``.
        v: The current accumulator, same shape. NaN is treated as 0.
        g: Threshold, at least 0 and finite; a number, or a tensor that broadcasts.
        power: :math:`p \ge 1`, or ``math.inf``.

    Returns:
        A new tensor of the shape and dtype of ``v``.

    Raises:
        ValueError: If ``power`` is out of its range.

    Example:
        >>> import torch
        >>> invert_threshold(torch.tensor([-4.0, 0.0]), torch.tensor([9.0, 9.0]), 3.0, power=2)
        tensor([-5.,  3.])
    """
    check_power(power)
    level: Any = g
    inside = v.nan_to_num(0.0).clamp(-level, level)
    if power == 1:
        return torch.where(w == 0, inside, w + g * w.sign())
    size = w.abs()
    larger = size.clamp(min=level)
    if power == math.inf:
        outside = larger
    else:
        ratio = (size.clamp(max=level) / larger).double()
        outside = (larger * (1 + ratio.pow(power)).pow(1 / power)).to(v.dtype)
    return torch.where(w == 0, inside, outside.copysign(w))


def check_power(power: float) -> None:
    """Raise a ValueError unless the exponent of the threshold function is at least 1."""
    if not power >= 1:
        raise ValueError(
            f"power must be at least 1 (math.inf for the hard threshold), got {power}"
        )
