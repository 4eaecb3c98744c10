r"""The eigenpairs at either end of a spectrum, from products alone."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dirprune._support.checkpoint import load_checkpoint, save_checkpoint
from dirprune.landscape.curvature.krylov import Krylov, Operator, check_memory, length

Which = Literal["largest", "smallest", "magnitude"]
# Products, remainders and blocks that are held beside the basis.
_TEMPORARY = 5


@dataclass(frozen=True)
class LanczosProgress:
    """How far the search is.

    Attributes:
        products: Products so far.
        converged: Eigenpairs, of those wanted, whose residual is small enough.
        wanted: k.
        worst: The largest residual over what is asked of it; infinite before there are k.
        memory: Bytes that all vectors need together.
        values: The estimates so far, with shape (at most k,).
    """

    products: int
    converged: int
    wanted: int
    worst: float
    memory: int
    values: Tensor = field(repr=False)


@dataclass(frozen=True)
class Eigenpairs:
    r"""Eigenvalues with their eigenvectors and how exact they are.

    Attributes:
        values: :math:`\theta`, the wanted end first, in float64 with shape (k,).
        vectors: Orthonormal rows, with shape (k, d).
        residuals: :math:`\lVert A v - \theta v \rVert`, the operator's rounding included, with
            shape (k,).
        targets: What was asked of the residuals, with shape (k,).
        noise: Rounding of the operator: no residual can be much smaller.
        products: Products with the operator, of this and earlier calls that were resumed.
    """

    values: Tensor
    vectors: Tensor = field(repr=False)
    residuals: Tensor
    targets: Tensor
    noise: float
    products: int

    @property
    def converged(self) -> bool:
        """Whether every residual is as small as was asked."""
        return bool((self.residuals <= self.targets).all())


def top_eigenpairs(
    op: Operator,
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

    The residual that the process predicts, :math:`\beta |e_m^\top s_i|`, knows nothing of the
    operator's own rounding. So one product with a random combination of all k vectors measures
    what it leaves out, and the search goes on until both together are small. Where rounding alone
    is too much, k products measure each residual, the search stops, and a warning states the
    floor (in float32 about 1e-6 of the largest eigenvalue).

    Of an eigenvalue that is there several times exactly, one start vector shows as many copies as
    rounding brings in: fewer may be returned.

    Args:
        op: A symmetric operator, such as a Hessian.
        k: How many, 1 to d.
        which: The algebraically ``largest``, ``smallest``, or those of largest ``magnitude``.
        tol: Above 0.
        basis: The number m of vectors before a restart, more than k; by default 3 k + 20. More
            vectors mean fewer products. Memory is that of k + m vectors and a few.
        max_products: Stops there, with a warning and what has been reached.
        seed: Of the start vector.
        state: A file to go on from if it exists, and to write to now and then and on interruption;
            deleted in the end.
        save_every: Seconds between two writes of ``state``.
        progress: Is told the memory before the first product, then how far it is after each.

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
    memory = check_memory(op, size + k + _TEMPORARY)
    tell = progress or (lambda _: None)
    tell(LanczosProgress(0, 0, k, float("inf"), memory, torch.zeros(0, dtype=torch.float64)))
    search = _Search(op, k, which, tol, size, seed)
    if state is not None and state.exists():
        search.load(state)
    saved = time.monotonic()
    try:
        while not (search.done and search.measure()) and search.products < max_products:
            search.advance()
            tell(search.progress(memory))
            if state is not None and time.monotonic() - saved > save_every:
                search.save(state)
                saved = time.monotonic()
    except BaseException:
        if state is not None and search.whole:  # a restart is not undone halfway
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


def _check(op: Operator, k: int, which: str, tol: float, size: int) -> None:
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
        reason = (
            f"the operator's own rounding, about {pairs.noise:.1e}, allows no less: a tolerance "
            f"of {tol * worst:.1e} is within reach, or take float64"
        )
    else:
        reason = f"stopped after {pairs.products} products: allow more, or a larger basis"
    warnings.warn(
        f"{missed} of {len(pairs.values)} eigenpairs have a residual above what was asked, up to "
        f"{worst:.1f} times; {reason}",
        stacklevel=3,
    )


class _Search:
    """The process between two products: all that is needed to go on with the same bits."""

    def __init__(
        self, op: Operator, k: int, which: Which, tol: float, size: int, seed: int
    ) -> None:
        self._op, self._k, self._which, self._tol = op, k, which, tol
        self._generator = torch.Generator().manual_seed(seed)
        self._identity = {
            **{"k": k, "which": which, "size": size, "seed": seed},
            **{"dimension": op.dimension, "dtype": str(op.dtype)},
        }
        self._krylov = Krylov(op, self._random(), size)
        self._turned, self.whole = False, True
        self._values = torch.zeros(0, dtype=torch.float64)
        self._residuals = self._targets = self._values
        self._rounding, self._measured = 0.0, False
        self.products, self.done = 0, False

    def advance(self) -> None:
        """Make room or turn if need be, and multiply once."""
        krylov = self._krylov
        if krylov.used == krylov.size:
            values, vectors = self._ritz()
            keep = min(self._k + (krylov.size - self._k) // 2, krylov.size - 1)
            self.whole = False
            krylov.restart(values[:keep], vectors[:, :keep])
            self._turned, self.whole = False, True
        if krylov.used and krylov.beta == 0:
            krylov.turn(self._random())
            self._turned = True
        krylov.step()
        self.products += 1
        self._measured = False
        self.done = self._judge()

    def _judge(self) -> bool:
        """Tell whether the wanted pairs stand."""
        krylov = self._krylov
        values, vectors = self._ritz()
        self._values = values[: self._k]
        self._residuals = krylov.beta * vectors[-1, : self._k].abs()
        scale = float(values.abs().max())
        self._targets = self._tol * self._values.abs().clamp(min=1e-3 * scale)
        if krylov.used == self._op.dimension:
            return True
        # After an invariant space was left its values look exact, while others may be missing.
        looked = krylov.used == krylov.size or not (self._turned or krylov.beta == 0)
        enough = len(self._values) == self._k and looked
        # More products do not help a pair whose residual is rounding.
        rounding = max(self._rounding, krylov.noise)
        left = (self._targets**2 - rounding**2).clamp(min=0).sqrt()
        within = torch.where(left > 0.2 * rounding, left, rounding)
        return enough and bool((self._residuals <= within).all())

    def measure(self) -> bool:
        """Measure what the process cannot know of the residuals; tell whether they stand."""
        krylov = self._krylov
        values, vectors = self._ritz()
        count = len(self._values)
        generator = torch.Generator().manual_seed(self.products)
        signs = torch.randint(2, (count,), generator=generator).double() * 2 - 1
        mixed = vectors[:, :count] @ torch.stack([signs, signs * values[:count]], dim=1)
        rows = krylov.basis[: krylov.used]
        mixture, scaled = mixed.mT.to(rows) @ rows
        left = self._op(mixture) - scaled
        left -= krylov.beta * float(mixed[-1, 0]) * krylov.basis[krylov.used]
        self.products += 1
        self._rounding, self._measured = length(left), True
        return self._judge()

    def finish(self) -> Eigenpairs:
        """Form the vectors."""
        if not self._measured:
            self.measure()
        krylov = self._krylov
        _, vectors = self._ritz()
        values = self._values
        rows = krylov.combine(vectors[:, : len(values)]).clone()
        # Rounding has no reason to point along the newest vector.
        residuals = torch.hypot(self._residuals, self._residuals.new_tensor(self._rounding))
        if not bool((residuals <= self._targets).all()):
            measured = [
                length(self._op(row) - float(value) * row) for row, value in zip(rows, values)
            ]
            self.products += len(measured)
            residuals = torch.tensor(measured, dtype=torch.float64)
        noise = max(self._rounding, krylov.noise)
        return Eigenpairs(values, rows, residuals, self._targets, noise, self.products)

    def progress(self, memory: int) -> LanczosProgress:
        """Say how far it is."""
        complete = len(self._values) == self._k
        ratios = self._residuals / self._targets.clamp(min=torch.finfo(torch.float64).tiny)
        worst = float(ratios.max()) if complete else float("inf")
        converged = int((self._residuals <= self._targets).sum())
        return LanczosProgress(
            self.products, converged, self._k, worst, memory, self._values.clone()
        )

    def _random(self) -> Tensor:
        # Drawn on the CPU, so that all devices and processes start alike.
        numbers = torch.randn(self._op.dimension, generator=self._generator, dtype=self._op.dtype)
        return numbers.to(self._op.device)

    def _ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T in the order that is wanted, and its eigenvectors as columns."""
        values, vectors = torch.linalg.eigh(self._krylov.triangle)
        keys = {"largest": -values, "smallest": values, "magnitude": -values.abs()}
        order = keys[self._which].argsort()
        return values[order], vectors[:, order]

    def save(self, path: Path) -> None:
        """Write all that the next product needs."""
        krylov = self._krylov
        tensors = {
            "basis": krylov.basis[: krylov.used + 1],
            "projected": krylov.projected,
            "generator": self._generator.get_state(),
        }
        numbers = {
            **{"used": krylov.used, "beta": krylov.beta, "noise": krylov.noise},
            **{"scale": krylov.scale, "products": self.products},
            **{"rounding": self._rounding, "turned": self._turned, "done": self.done},
        }
        save_checkpoint(path, tensors, {"identity": self._identity, "numbers": numbers})

    def load(self, path: Path) -> None:
        """Go on where another search stopped.

        Raises:
            ValueError: If the file is damaged or of another search.
        """
        tensors, meta = load_checkpoint(path)
        found = meta.get("identity")
        if found != self._identity:
            raise ValueError(
                f"{path} is of another search ({found}, this one is {self._identity}): delete it "
                "or give another file"
            )
        numbers = meta["numbers"]
        if "rounding" not in numbers:
            raise ValueError(f"{path} is of another version of dirprune: delete it to start anew")
        krylov = self._krylov
        krylov.basis[: len(tensors["basis"])] = tensors["basis"]
        krylov.projected = tensors["projected"]
        krylov.used, krylov.beta = numbers["used"], numbers["beta"]
        krylov.noise, krylov.scale = numbers["noise"], numbers["scale"]
        self.products, self._turned = numbers["products"], numbers["turned"]
        self._rounding = numbers["rounding"]
        self._generator.set_state(tensors["generator"])
        self.done = numbers["done"] and self._judge()
