r"""Krylov spaces of symmetric operators, with full reorthogonalisation.

From a start vector the Lanczos process builds orthonormal rows :math:`V` and the small matrix
:math:`T = V A V^\top` such that

.. math:: A V_m^\top = V_m^\top T_m + \beta_m v_{m+1} e_m^\top

References:
    Matrix Computations (Golub and Van Loan, 2013), chapter 10
"""

import hashlib
from typing import Protocol

import torch
from torch import Tensor

from dirprune._support.hashing import hash_tensor
from dirprune._support.memory import available_memory

# Terms of an inner product that are summed in the dtype of the vectors.
_BLOCK = 2**12


class LinearOperator(Protocol):
    """A symmetric linear map that is given by its products.

    Attributes:
        dimension: The length d of its vectors.
        dtype: Dtype of the vectors.
        device: Device of the vectors.

    An operator may also have a ``fingerprint``, a text that identifies its matrix. Saved work
    stores it, so that it is not resumed with another matrix.
    """

    dimension: int
    dtype: torch.dtype
    device: torch.device

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply a vector with shape (d,)."""


class MatrixOperator:
    """A symmetric matrix as an operator.

    Args:
        matrix: With shape (d, d).

    Raises:
        ValueError: If it is not symmetric.

    Example:
        >>> MatrixOperator(torch.tensor([[2.0, 1.0], [1.0, 0.0]]))(torch.ones(2))
        tensor([3., 1.])
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"a symmetric matrix has shape (d, d), got {tuple(matrix.shape)}")
        if not matrix.is_floating_point():
            raise ValueError(f"the matrix must be floating-point, got {matrix.dtype}")
        if not torch.allclose(matrix, matrix.mT):
            error = float((matrix - matrix.mT).abs().max())
            raise ValueError(f"the matrix is not symmetric: A - A' is {error:.1e} somewhere")
        self.matrix = matrix
        self.dimension, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    @property
    def fingerprint(self) -> str:
        """A hash of the matrix."""
        hashed = hashlib.sha256(b"MatrixOperator ")
        hash_tensor(hashed, self.matrix)
        return hashed.hexdigest()

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply a vector with shape (d,)."""
        return self.matrix @ v


class Krylov:
    """An orthonormal basis that grows by one product at a time.

    Args:
        op: The operator A.
        start: The first direction, not zero, with shape (d,).
        size: Maximum number m of products before a restart, up to d.

    Attributes:
        basis: The rows v, with shape (m + 1, d); the first ``used + 1`` are filled.
        projected: T in float64, with shape (m + 1, m + 1).
        used: The number of products in the basis.
        beta: Length of the last remainder; 0 if the space is invariant.
        noise: Rounding error: the largest part of a product that would be zero by symmetry.
        scale: Length of the longest product so far.

    Raises:
        ValueError: If the start is zero, not finite or does not fit.
    """

    def __init__(self, op: LinearOperator, start: Tensor, size: int) -> None:
        self.op = op
        self.size = min(size, op.dimension)
        self.basis = torch.zeros(self.size + 1, op.dimension, dtype=op.dtype, device=op.device)
        self.projected = torch.zeros(self.size + 1, self.size + 1, dtype=torch.float64)
        self.used, self.beta, self.noise, self.scale = 0, 0.0, 0.0, 0.0
        norm = length(_checked(op, start))
        if not 0 < norm < float("inf"):
            raise ValueError(
                f"the start vector has length {norm}: give a finite vector that is not zero"
            )
        self.basis[0] = start / norm

    @property
    def triangle(self) -> Tensor:
        """T as far as it is known, with shape (used, used)."""
        return self.projected[: self.used, : self.used]

    def step(self) -> None:
        """Multiply the newest vector and orthogonalise the product against all others.

        Raises:
            ValueError: If the product is not finite or has another shape.
        """
        j = self.used
        product = _checked(self.op, self.op(self.basis[j]))
        if not bool(product.isfinite().all()):
            raise ValueError(
                "a product with the operator is not finite: are the weights or the loss infinite?"
            )
        rows = self.basis[: j + 1]
        column = torch.zeros(j + 1, dtype=torch.float64)
        # After cancellation to the last digits, the remainder is only rounding error.
        before = length(product)
        self.scale = max(self.scale, before)
        smallest = 16 * torch.finfo(product.dtype).eps * self.scale
        for _ in range(4):
            parts = inner(rows, product)
            product = product - parts.to(rows) @ rows
            column += parts
            self.beta = length(product)
            if self.beta > 0.5 * before or self.beta <= smallest:
                break
            before = self.beta
        if self.beta <= smallest or j + 1 == self.op.dimension:
            self.beta = 0.0
            self.basis[j + 1] = 0
        else:
            self.basis[j + 1] = product / self.beta
        self.noise = max(self.noise, float((column[:j] - self.projected[:j, j]).norm()))
        self.projected[j, j] = column[j]
        self.projected[j, j + 1] = self.projected[j + 1, j] = self.beta
        self.used = j + 1

    def rotate(self, direction: Tensor) -> None:
        """Continue from an invariant space in another direction, with shape (d,)."""
        rows = self.basis[: self.used]
        for _ in range(2):
            direction = direction - inner(rows, direction).to(rows) @ rows
        self.basis[self.used] = direction / length(direction)

    def restart(self, values: Tensor, vectors: Tensor) -> None:
        """Restart the basis with some eigenvectors of T and the newest vector.

        Args:
            values: Eigenvalues of T, with shape (keep,).
            vectors: Eigenvectors as columns, with shape (used, keep).

        References:
            Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems (Wu and Simon,
            2000), section 3
        """
        keep = len(values)
        newest = self.basis[self.used].clone()
        self.combine(vectors)
        self.basis[keep] = newest
        couplings = self.beta * vectors[self.used - 1]
        self.projected.zero_()
        self.projected[:keep, :keep] = values.diag()
        self.projected[:keep, keep] = self.projected[keep, :keep] = couplings
        self.used = keep

    def combine(self, vectors: Tensor) -> Tensor:
        """Replace the first rows by linear combinations, in place, without a second basis.

        Args:
            vectors: Coefficients as columns, with shape (used, keep).

        Returns:
            The combinations, a view with shape (keep, d).
        """
        weights = vectors.mT.to(self.basis)
        for columns in torch.split(self.basis, 2**16, dim=1):
            columns[: len(weights)] = weights @ columns[: self.used]
        return self.basis[: len(weights)]


def inner(rows: Tensor, v: Tensor) -> Tensor:
    r"""Compute :math:`V v`, with sums over short blocks that are added in float64.

    A plain float32 sum of a million terms of different size loses three of seven digits, and the
    basis would lose its orthogonality.

    Args:
        rows: V with shape (m, d).
        v: With shape (d,).

    Returns:
        In float64, on the CPU, with shape (m,).
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=v.device)
    for columns, part in zip(torch.split(rows, _BLOCK, dim=1), torch.split(v, _BLOCK)):
        total += columns @ part
    return total.cpu()


def length(v: Tensor) -> float:
    """Return the norm of a vector, summed in float64."""
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))


def check_memory(op: LinearOperator, vectors: int) -> int:
    """Check that memory suffices for a number of vectors; return the bytes that they need.

    Raises:
        ValueError: If less memory is available.
    """
    needed = vectors * op.dimension * op.dtype.itemsize
    available = available_memory(op.device)
    if needed > available:
        raise ValueError(
            f"{vectors} vectors of {op.dimension:,} numbers need {needed / 2**30:.1f} GiB, "
            f"{available / 2**30:.1f} GiB are available: ask for fewer eigenpairs, steps or a "
            "smaller basis"
        )
    return needed


def _checked(op: LinearOperator, v: Tensor) -> Tensor:
    if v.shape != (op.dimension,) or v.dtype != op.dtype:
        raise ValueError(
            f"the operator has vectors with shape ({op.dimension},) in {op.dtype}, got "
            f"{tuple(v.shape)} in {v.dtype}"
        )
    return v
