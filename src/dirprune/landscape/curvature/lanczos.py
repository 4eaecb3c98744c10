r"""The eigenpairs at one end of a spectrum, from products."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from dirprune._support.precision import true_float32
from dirprune.landscape.curvature.krylov import LinearOperator, check_memory
from dirprune.landscape.curvature.search import Eigenpairs, LanczosProgress, LanczosSearch, Which

# Vectors besides the basis: products, remainders and blocks.
_TEMPORARY = 5


@true_float32()
def top_eigenpairs(
    op: LinearOperator,
    k: int,
    *,
    which: Which = "largest",
    tol: float = 1e-4,
    basis: int | None = None,
    max_products: int = 2000,
    seed: int = 0,
    state: Path | None = None,
    save_every: float = 60.0,
    progress: Callable[[LanczosProgress], None] | None = None,
) -> Eigenpairs:
    r"""Find the k eigenpairs at one end of the spectrum.

    Lanczos with full reorthogonalisation, restarted with the best Ritz vectors whenever the basis
    is full, until every residual is small:

    .. math:: \lVert A v_i - \theta_i v_i \rVert
        \le \mathrm{tol} \cdot \max(|\theta_i|,\ 10^{-3} \max_j |\theta_j|)

    The residual that the process predicts, :math:`\beta |e_m^\top s_i|`, does not contain the
    rounding error of the operator. So one product with a random combination of all k vectors
    measures the rounding error, and the search continues until the sum of both is small. If the
    rounding error alone is too large, the search measures each residual with k products and
    stops with a warning that states the reachable residual (in float32 about 1e-6 of the largest
    eigenvalue).

    For an exactly multiple eigenvalue, one start vector finds further copies only through rounding
    errors, so fewer pairs may be returned.

    Args:
        op: A symmetric operator, such as a Hessian.
        k: Number of eigenpairs, 1 to d.
        which: The algebraically ``largest``, ``smallest``, or those of largest ``magnitude``.
        tol: Above 0.
        basis: The number m of vectors before a restart, more than k; by default 3 k + 20. More
            vectors mean fewer products. The memory is that of k + m vectors and a few more.
        max_products: Maximum number of products, at least 1; the search then stops with a warning.
        seed: Seed of the start vector.
        state: A file to resume from if it exists; written regularly and on interruption,
            deleted at the end. It identifies the operator, and another operator is refused.
        save_every: Seconds between two writes of ``state``.
        progress: Called before the first product and after each product.

    Returns:
        The pairs with their residuals.

    Raises:
        ValueError: If a number is out of its range, memory does not suffice, a product is not
            finite, or ``state`` belongs to another search.

    References:
        Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems (Wu and Simon, 2000)

    Example:
        >>> from dirprune.landscape import MatrixOperator
        >>> matrix = torch.arange(100.0, dtype=torch.float64).diag()
        >>> top_eigenpairs(MatrixOperator(matrix), 3).values
        tensor([99.0000, 98.0000, 97.0000], dtype=torch.float64)
    """
    size = min(3 * k + 20 if basis is None else basis, op.dimension)
    _check(op, k, which, tol, size)
    if max_products < 1:
        raise ValueError(f"max_products must be at least 1, got {max_products}")
    memory = check_memory(op, size + k + _TEMPORARY)
    report = progress or (lambda _: None)
    report(LanczosProgress(0, 0, k, float("inf"), memory, torch.zeros(0, dtype=torch.float64)))
    search = LanczosSearch(op, k, which, tol, size, seed)
    if state is not None and state.exists():
        search.load(state)
    saved = time.monotonic()
    try:
        while not (search.done and search.measure()) and search.products < max_products:
            search.advance()
            report(search.progress(memory))
            if state is not None and time.monotonic() - saved > save_every:
                search.save(state)
                saved = time.monotonic()
    except BaseException:
        if state is not None and search.consistent:  # an incomplete restart cannot be saved
            search.save(state)
        raise
    if state is not None:
        search.save(state)
    pairs = search.finish()
    if not pairs.converged:
        _warn(pairs, tol)
    if state is not None:
        state.unlink(missing_ok=True)
    return pairs


def _check(op: LinearOperator, k: int, which: str, tol: float, size: int) -> None:
    if not 1 <= k <= op.dimension:
        raise ValueError(f"k must be 1 to {op.dimension}, the operator's dimension, got {k}")
    if which not in ("largest", "smallest", "magnitude"):
        raise ValueError(f"which must be largest, smallest or magnitude, got {which!r}")
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol}")
    if size < min(k + 2, op.dimension):
        raise ValueError(f"a basis of {size} is too small for {k} eigenpairs: give 2 k or more")


def _warn(pairs: Eigenpairs, tol: float) -> None:
    missed = int((pairs.residuals > pairs.targets).sum())
    worst = float((pairs.residuals / pairs.targets).max())
    if float(pairs.residuals.max()) <= 10 * pairs.noise:
        # Another search has another rounding error: four times this one's can be reached.
        reason = (
            f"the rounding error of the operator, about {pairs.noise:.1e}, does not allow less: "
            f"use a tolerance of {4 * tol * worst:.1e}, or float64"
        )
    else:
        reason = f"stopped after {pairs.products} products: allow more, or a larger basis"
    warnings.warn(
        f"{missed} of {len(pairs.values)} eigenpairs have a residual above the tolerance, up to "
        f"{worst:.1f} times; {reason}",
        stacklevel=3,
    )
