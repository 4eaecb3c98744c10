"""Proximal operators: pure functions from a tensor to a tensor of the same shape."""

import math

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
    if not 0 <= g < math.inf:
        raise ValueError(f"the threshold g must be at least 0 and finite, got {g}")
    return v - v.clamp(-g, g)
