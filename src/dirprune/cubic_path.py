"""The cubic path of a sparsity that grows during training."""

from typing import TypeVar

from torch import Tensor

Share = TypeVar("Share", float, Tensor)


def cubic_sparsity(sparsity: float, done: Share) -> Share:
    r"""Return the sparsity after a share of the path; it grows fastest at the beginning.

    .. math:: s\,\bigl(1 - (1 - t)^3\bigr)

    Args:
        sparsity: Final sparsity :math:`s`.
        done: Share :math:`t` of the path, from 0 to 1.

    Returns:
        The share of zeros, from 0 to ``sparsity``.

    References:
        To prune, or not to prune (Zhu & Gupta, 2017), equation 1,
        https://arxiv.org/abs/1710.01878

    Example:
        >>> [cubic_sparsity(0.5, t) for t in (0.0, 0.5, 1.0)]
        [0.0, 0.4375, 0.5]
    """
    return sparsity * (1 - (1 - done) ** 3)
