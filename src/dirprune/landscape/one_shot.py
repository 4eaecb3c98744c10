r"""One-shot directional pruning of a densely trained network, and simpler pruning rules.

Some eigenvectors of the Hessian are protected, and all other directions are treated as flat. This
is an experiment, not a recommended pruning method (use gRDA for training). It shows how the loss
changes if sharp directions are protected, and how many of them matter.

With k of d directions protected, :math:`s_j = 1 - \operatorname{sign}(w_j) (Q^\top Q
\operatorname{sign}(w))_j` differs from 1 by about :math:`\sqrt{k / d}`: if k is much smaller than
d, this is nearly the soft threshold, and sets nearly the same weights to zero. At a useful
sparsity most weights stop at zero before the end of their step, and the step is no longer flat.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dirprune.directional import DirectionalPath, Flat, FlatProjector, check_finite
from dirprune.quantile import mark_smallest


@dataclass(frozen=True)
class PrunedWeights:
    r"""Weights of a trained network, pruned by one rule.

    Attributes:
        rule: ``magnitude``; ``soft_threshold``, which also shrinks all other weights; ``obd``,
            optimal brain damage; or ``directional``.
        rank: The number k of directions that ``directional`` protects, None for other rules.
        lam: :math:`\lambda`, None for the rules that do not change other weights.
        weights: With shape (d,).
        sparsity: Share of zeros among all weights.
        overlap: Share of its zeros that magnitude pruning to the same sparsity sets to zero too.
        clipped: Length of the part of the step :math:`-\lambda P_0 \operatorname{sign}(w)` that
            is lost because weights stop at zero, over the length of the step; None without such a
            step.
        leaves: Share of the squared length of the actual step in the k protected directions: 0 if
            nothing is clipped. None for other rules.
        curvature: :math:`\sum_i \theta_i \langle q_i, x \rangle^2 / \lVert x \rVert^2` of the
            step x, over all known eigenpairs: their part of its Rayleigh quotient.
    """

    rule: str
    rank: int | None
    lam: float | None
    weights: Tensor = field(repr=False)
    sparsity: float
    overlap: float
    clipped: float | None
    leaves: float | None
    curvature: float


def prune_once(
    w: Tensor,
    sparsity: float,
    values: Tensor,
    vectors: Tensor,
    diagonal: Tensor,
    ranks: Iterable[int],
) -> list[PrunedWeights]:
    r"""Prune weights by every rule to one sparsity.

    Args:
        w: All trainable weights as one vector, with shape (d,).
        sparsity: Share of zeros, from 0 to 1.
        values: Eigenvalues of the Hessian at w, with shape (K,).
        vectors: Their eigenvectors as rows, with shape (K, d).
        diagonal: Diagonal of the Hessian, with shape (d,), such as from
            :func:`.diagonal.hessian_diagonal`.
        ranks: Numbers of directions to protect, those of largest :math:`|\theta|` first; 0 to K.

    Returns:
        Magnitude, soft threshold, OBD, and directional for every rank that can reach the
        sparsity (see :attr:`~dirprune.DirectionalPath.largest_sparsity`).

    Raises:
        ValueError: If shapes do not fit or a number is out of its range.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), Definition 1.1

        Optimal Brain Damage (LeCun et al., 1989)

    Example:
        >>> w = torch.tensor([2.0, -3.0, 4.0, 5.0])
        >>> sharp = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
        >>> shots = prune_once(w, 0.25, torch.tensor([9.0]), sharp, torch.ones(4), ranks=[1])
        >>> {shot.rule: shot.weights.tolist() for shot in shots}["directional"]
        [1.0, 0.0, 3.0, 4.0]
    """
    if vectors.shape != (*values.shape, *w.shape):
        raise ValueError(
            f"eigenvalues {tuple(values.shape)}, eigenvectors {tuple(vectors.shape)} and weights "
            f"{tuple(w.shape)} do not fit: give shapes (K,), (K, d) and (d,)"
        )
    least = magnitude_prune(w, sparsity)

    def shot(rule: str, weights: Tensor) -> PrunedWeights:
        zeros = weights == 0
        common = int((zeros & (least == 0)).sum()) / max(int(zeros.sum()), 1)
        share = int(zeros.sum()) / len(w)
        step = weights - w
        curved = float((values * (vectors @ step).square()).sum())
        curvature = curved / max(float(step @ step), torch.finfo(w.dtype).tiny)
        return PrunedWeights(rule, None, None, weights, share, common, None, None, curvature)

    def shrunk(rule: str, flat: Flat, rank: int | None) -> Iterable[PrunedWeights]:
        path = DirectionalPath(w, flat)
        if rank is not None and path.largest_sparsity < sparsity:
            return
        lam = path.lam_for(sparsity)
        plain = shot(rule, path.weights(lam))
        step, unclipped = plain.weights - w, -lam * flat(w.sign())
        yield replace(
            plain,
            rank=rank,
            lam=lam,
            clipped=_ratio(step - unclipped, unclipped),
            leaves=None if rank is None else _across(step, flat),
        )

    shots = [
        shot("magnitude", least),
        *shrunk("soft_threshold", lambda x: x, None),
        shot("obd", obd_prune(w, sparsity, diagonal)),
    ]
    for rank in ranks:
        flat = FlatProjector.from_eigenpairs(values, vectors, rank=rank)
        shots += shrunk("directional", flat, rank)
    return shots


def magnitude_prune(w: Tensor, sparsity: float) -> Tensor:
    """Set the smallest weights to zero.

    Args:
        w: With shape (d,).
        sparsity: Share of zeros afterwards, from 0 to 1.

    Raises:
        ValueError: If the sparsity is out of its range, or a weight is not finite.

    Example:
        >>> magnitude_prune(torch.tensor([3.0, -1.0, 2.0, 4.0]), 0.5)
        tensor([3., 0., 0., 4.])
    """
    (pruned,) = mark_smallest([w.abs()], _count(w, sparsity))
    return w.masked_fill(pruned, 0.0)


def obd_prune(w: Tensor, sparsity: float, diagonal: Tensor) -> Tensor:
    r"""Remove the weights with the smallest loss increase under a diagonal Hessian.

    .. math:: \tfrac12 H_{jj} w_j^2

    Negative curvature is treated as 0; ties are broken by the smaller weight.

    Args:
        w: Weights with shape (d,).
        sparsity: Share of zeros afterwards, from 0 to 1.
        diagonal: Diagonal of the Hessian, with shape (d,).

    Raises:
        ValueError: If shapes differ, the sparsity is out of its range, or a number is not finite.

    References:
        Optimal Brain Damage (LeCun et al., 1989)

    Example:
        >>> obd_prune(torch.tensor([1.0, 2.0, 3.0]), 0.6, torch.tensor([9.0, 1.0, 0.1]))
        tensor([1., 0., 0.])
    """
    if diagonal.shape != w.shape:
        raise ValueError(
            f"the diagonal has shape {tuple(diagonal.shape)}, the weights {tuple(w.shape)}: give "
            "one number per weight"
        )
    if not bool(diagonal.isfinite().all()):
        raise ValueError("the diagonal has entries that are NaN or infinite: compute it again")
    cost = diagonal.to(w.dtype).clamp(min=0) * w.square()
    smaller_first = w.abs().argsort(stable=True)
    order = smaller_first[cost[smaller_first].argsort(stable=True)]
    return w.index_fill(0, order[: _count(w, sparsity)], 0.0)


def _count(w: Tensor, sparsity: float) -> int:
    """The number of zeros, as in DirectionalPath.lam_for: 7 for 0.7 * 10 = 7.000000000000001."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in [0, 1], got {sparsity}")
    check_finite(w)
    return math.ceil(round(sparsity * len(w), 6))


def _across(step: Tensor, flat: Flat) -> float:
    """The share of a step's squared length that is not flat."""
    return _ratio(step - flat(step), step) ** 2


def _ratio(part: Tensor, total: Tensor) -> float:
    length = float(total.norm())
    return float(part.norm()) / length if length else 0.0
