r"""Directional pruning: Definition 1.1 of Chao et al. (2020) in closed form.

A solution :math:`w` of SGD lies in a valley of the loss whose floor is flat in most directions.
:math:`P_0` is the projector on these directions. Directional pruning shrinks the weights along
the floor:

.. math::
    s_j = \operatorname{sign}(w_j)\,(P_0 \operatorname{sign}(w))_j, \qquad
    \hat w(\lambda) \in \arg\min_x \tfrac12 \lVert w - x \rVert_2^2
        + \lambda \textstyle\sum_j s_j \lvert x_j \rvert

A weight with :math:`s_j < 0` grows, which compensates for the change of the other weights.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Flat = Callable[[Tensor], Tensor]
"""Maps a vector with shape (d,) to its projection on the flat directions, with shape (d,)."""


class FlatProjector:
    r"""The projector on the orthogonal complement of some directions.

    .. math:: P_0 x = x - Q^\top Q x

    Args:
        basis: Q, the sharp directions as orthonormal rows, with shape (k, d) and k at most d.

    Raises:
        ValueError: If the rows are not orthonormal.

    Example:
        >>> flat = FlatProjector(torch.tensor([[0.0, 1.0, 0.0]]))
        >>> flat(torch.tensor([1.0, 2.0, 3.0]))
        tensor([1., 0., 3.])
    """

    def __init__(self, basis: Tensor) -> None:
        if basis.dim() != 2 or not basis.is_floating_point():
            raise ValueError(
                f"a basis needs shape (k, d) and a floating-point dtype, got {tuple(basis.shape)} "
                f"and {basis.dtype}: give the directions as rows"
            )
        unit = torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
        error = float((basis @ basis.mT - unit).abs().max()) if len(basis) else 0.0
        if not error <= torch.finfo(basis.dtype).eps ** 0.5:
            raise ValueError(
                f"the rows of a basis must be orthonormal, these deviate by {error:.1e}: use "
                "torch.linalg.qr(rows.T).Q.T"
            )
        self.basis = basis

    @classmethod
    def from_eigenpairs(
        cls,
        values: Tensor,
        vectors: Tensor,
        *,
        threshold: float | None = None,
        rank: int | None = None,
    ) -> "FlatProjector":
        r"""Make the projector from eigenpairs of a Hessian.

        Args:
            values: Eigenvalues :math:`\theta`, with shape (k,).
            vectors: Eigenvectors as rows, with shape (k, d).
            threshold: Directions with :math:`|\theta|` above it are sharp.
            rank: Number of sharp directions, those of largest :math:`|\theta|`. Give either
                ``threshold`` or ``rank``.

        Raises:
            ValueError: If both or neither are given, or the shapes or the rank do not fit.

        Example:
            >>> values, vectors = torch.linalg.eigh(torch.diag(torch.tensor([0.0, 5.0])))
            >>> FlatProjector.from_eigenpairs(values, vectors.T, threshold=1e-3).basis
            tensor([[0., 1.]])
        """
        if values.dim() != 1 or vectors.dim() != 2 or len(values) != len(vectors):
            raise ValueError(
                f"eigenvalues {tuple(values.shape)} and eigenvectors {tuple(vectors.shape)} do "
                "not fit: give shapes (k,) and (k, d), with one eigenvector per row"
            )
        if rank is None and threshold is not None:
            rank = int((values.abs() > threshold).sum())
        elif rank is None or threshold is not None:
            raise ValueError(
                f"got threshold={threshold} and rank={rank}: give exactly one of them"
            )
        order = values.abs().argsort(descending=True)
        if not 0 <= rank <= len(values):
            raise ValueError(
                f"rank must lie in 0 to {len(values)}, the number of eigenpairs, got {rank}"
            )
        return cls(vectors[order[:rank]])

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> "FlatProjector":
        """Make the projector from the matrix P0.

        Args:
            matrix: Symmetric and idempotent, with shape (d, d).

        Raises:
            ValueError: If it is not an orthogonal projector.

        Example:
            >>> FlatProjector.from_matrix(torch.diag(torch.tensor([1.0, 0.0])))(torch.ones(2))
            tensor([1., 0.])
        """
        square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1] > 0
        if not square or not matrix.is_floating_point():
            raise ValueError(
                f"a projector needs shape (d, d) and a floating-point dtype, got "
                f"{tuple(matrix.shape)} and {matrix.dtype}"
            )
        error = max(
            float((matrix - matrix.mT).abs().max()), float((matrix @ matrix - matrix).abs().max())
        )
        if not error <= torch.finfo(matrix.dtype).eps ** 0.5:
            raise ValueError(
                f"the matrix is not an orthogonal projector, P - P' or PP - P has an entry of "
                f"{error:.1e}: give I - Q'Q with orthonormal rows Q"
            )
        values, vectors = torch.linalg.eigh(matrix)
        return cls(vectors.mT[values < 0.5])

    def __call__(self, x: Tensor) -> Tensor:
        """Project a vector with shape (d,)."""
        if x.dtype != self.basis.dtype:
            raise ValueError(f"the basis is {self.basis.dtype}, the vector {x.dtype}: convert one")
        if x.shape != self.basis.shape[1:]:
            raise ValueError(
                f"the basis has {self.basis.shape[1]} dimensions, the vector has shape "
                f"{tuple(x.shape)}: give all weights as one vector, in the order of the Hessian"
            )
        return x - self.basis.mT @ (self.basis @ x)


def check_finite(w: Tensor) -> None:
    """Raise a ValueError if a weight is NaN or infinite."""
    if wrong := int((~w.isfinite()).sum()):
        raise ValueError(
            f"{wrong:,} of {len(w):,} weights are NaN or infinite: give weights from before "
            "training diverged"
        )


def directional_scores(w: Tensor, flat: Flat) -> Tensor:
    r"""Compute the score of every weight: how fast it shrinks in directional pruning.

    .. math:: s_j = \operatorname{sign}(w_j)\,(P_0 \operatorname{sign}(w))_j

    :math:`\sum_j s_j = \lVert P_0 \operatorname{sign}(w) \rVert^2` lies between 0 and the number
    of weights: every score is 1 if all directions are flat, and 0 if none is.

    Args:
        w: All weights as one vector, with shape (d,).
        flat: Projects vectors on the flat directions, such as a :class:`FlatProjector`.

    Returns:
        The scores, with shape (d,); negative if a weight grows.

    Raises:
        ValueError: If w is not a finite vector, or ``flat`` changes its shape.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), Definition 1.1

    Example:
        >>> flat = FlatProjector(torch.tensor([[0.6, 0.8]]))
        >>> directional_scores(torch.tensor([2.0, 1.0]), flat)
        tensor([ 0.1600, -0.1200])
    """
    if w.dim() != 1 or not w.is_floating_point():
        raise ValueError(
            f"w must be one floating-point vector, got shape {tuple(w.shape)}, {w.dtype}: give "
            "torch.nn.utils.parameters_to_vector(model.parameters())"
        )
    check_finite(w)
    signs = w.sign()
    projected = flat(signs)
    if projected.shape != w.shape:
        raise ValueError(
            f"flat maps shape {tuple(w.shape)} to {tuple(projected.shape)}: make it return the "
            "same shape"
        )
    return signs * projected


def directional_prune(w: Tensor, lam: float, flat: Flat) -> Tensor:
    r"""Prune weights along the flat directions.

    .. math:: \hat w_j = \operatorname{sign}(w_j)\,\big[\,|w_j| - \lambda s_j\,\big]_+

    With :math:`P_0 = I` it is the soft threshold, with :math:`P_0 = 0` the identity. Until the
    first weight reaches zero, the step :math:`-\lambda P_0 \operatorname{sign}(w)` is flat.

    Args:
        w: All weights as one vector, with shape (d,).
        lam: :math:`\lambda \ge 0`.
        flat: As in :func:`directional_scores`.

    Returns:
        The pruned weights, with exact zeros and shape (d,).

    Raises:
        ValueError: If lam is negative or not finite, or w is not a finite vector.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), Definition 1.1

    Example:
        >>> flat = FlatProjector(torch.tensor([[0.6, 0.8]]))
        >>> directional_prune(torch.tensor([2.0, 1.0]), 15.0, flat)
        tensor([0.0000, 2.8000])
    """
    return DirectionalPath(w, flat).weights(lam)


class DirectionalPath:
    r"""Directional pruning as a function of :math:`\lambda`.

    Every weight moves on a straight line until it reaches zero, at its breakpoint

    .. math:: \lambda_j = |w_j| / s_j \text{ where } s_j > 0, \qquad \infty \text{ elsewhere}

    Args:
        w: All weights as one vector, with shape (d,).
        flat: As in :func:`directional_scores`; it is called once.

    Raises:
        ValueError: If w is not a finite vector, or empty.

    Attributes:
        scores: s, with shape (d,).
        breakpoints: The :math:`\lambda` at which each weight becomes zero, with shape (d,); 0 for
            weights that are zero, infinite if s is not above its rounding error.

    Example:
        >>> path = DirectionalPath(torch.tensor([2.0, 1.0, 0.5]), lambda x: x)
        >>> path.breakpoints, path.sparsity(1.0), path.lam_for(0.9)
        (tensor([2.0000, 1.0000, 0.5000]), 0.666..., 2.0)
    """

    def __init__(self, w: Tensor, flat: Flat) -> None:
        self.scores = directional_scores(w, flat)
        if not len(w):
            raise ValueError("w is empty: give a vector with at least one weight")
        self._w = w
        # If the signs have no flat part, their projection is rounding error: up to 3 times
        # sqrt(d) eps where it was measured.
        noise = 8 * len(w) ** 0.5 * torch.finfo(w.dtype).eps
        reach = torch.where(self.scores > noise, w.abs() / self.scores, torch.inf)
        self.breakpoints = torch.where(w == 0, 0.0, reach)

    @property
    def largest_sparsity(self) -> float:
        """The share of weights that can become zero: those with s above 0, and those at zero."""
        return int(self.breakpoints.isfinite().sum()) / len(self.breakpoints)

    def weights(self, lam: float) -> Tensor:
        r"""Return :math:`\hat w(\lambda)`, with shape (d,).

        Raises:
            ValueError: If lam is negative or not finite.
        """
        if not 0 <= lam <= torch.finfo(self._w.dtype).max:
            raise ValueError(f"lam must be at least 0 and finite, got {lam}")
        size = self._w.abs() - lam * self.scores
        # The breakpoints decide which weights are zero, so that rounding cannot contradict
        # sparsity().
        size = size.clamp(min=torch.finfo(size.dtype).tiny)
        return torch.where(self.breakpoints <= lam, 0.0, self._w.sign() * size)

    def sparsity(self, lam: float) -> float:
        """Return the share of zeros in :meth:`weights`."""
        return int((self.breakpoints <= lam).sum()) / len(self.breakpoints)

    def lam_for(self, sparsity: float) -> float:
        r"""Return the smallest :math:`\lambda` that makes a share of the weights zero.

        Args:
            sparsity: From 0 to :attr:`largest_sparsity`.

        Raises:
            ValueError: If no :math:`\lambda` gives this sparsity.
        """
        count = len(self.breakpoints)
        # Rounded, because 0.7 * 10 = 7.000000000000001 would need 8 zeros.
        needed = round(sparsity * count, 6)
        if not 0 <= sparsity <= self.largest_sparsity:
            raise ValueError(
                f"a sparsity of {sparsity:.2%} cannot be reached, because only "
                f"{self.largest_sparsity:.2%} of the weights have a score above 0 or are zero: "
                f"give 0 to {self.largest_sparsity}"
            )
        if needed == 0:
            return 0.0
        return float(self.breakpoints.sort().values[math.ceil(needed) - 1])
