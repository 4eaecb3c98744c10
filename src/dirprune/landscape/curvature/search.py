"""The state of a Lanczos search between two products."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dirprune._support.checkpoint import load_checkpoint, save_checkpoint
from dirprune.landscape.curvature.krylov import Krylov, LinearOperator, inner, length

Which = Literal["largest", "smallest", "magnitude"]
# Format version of a search's state; version 2 identifies the operator.
_VERSION = 2


@dataclass(frozen=True)
class LanczosProgress:
    """The state of a search.

    Attributes:
        products: Products so far.
        converged: Number of requested eigenpairs whose residual is small enough.
        wanted: k.
        worst: Largest ratio of a residual to its target; infinite before there are k pairs.
        memory: Memory of all vectors in bytes.
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
    r"""Eigenvalues and eigenvectors with their residuals.

    Attributes:
        values: :math:`\theta`, the requested end first, in float64 with shape (k,).
        vectors: Orthonormal rows, with shape (k, d).
        residuals: :math:`\lVert A v - \theta v \rVert`, including the operator's rounding error,
            with shape (k,).
        targets: Targets of the residuals, with shape (k,).
        noise: Rounding error of the operator; no residual can be much smaller.
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
        """Whether every residual is within its target."""
        return bool((self.residuals <= self.targets).all())


class LanczosSearch:
    """The state between two products, which is sufficient for resuming bit-identically."""

    def __init__(
        self, op: LinearOperator, k: int, which: Which, tol: float, size: int, seed: int
    ) -> None:
        self._op, self._k, self._which, self._tol = op, k, which, tol
        self._generator = torch.Generator().manual_seed(seed)
        self._identity = {
            **{"k": k, "which": which, "size": size, "seed": seed},
            **{"dimension": op.dimension, "dtype": str(op.dtype)},
        }
        self._operator = getattr(op, "fingerprint", None)
        self._krylov = Krylov(op, self._random(), size)
        self._rotated, self.consistent = False, True
        self._values = torch.zeros(0, dtype=torch.float64)
        self._residuals = self._targets = self._values
        self._rounding, self._measured = 0.0, False
        self.products, self.done = 0, False

    def advance(self) -> None:
        """Restart or change the direction if necessary, and multiply once."""
        krylov = self._krylov
        if krylov.used == krylov.size:
            values, vectors = self._ritz()
            keep = min(self._k + (krylov.size - self._k) // 2, krylov.size - 1)
            self.consistent = False
            krylov.restart(values[:keep], vectors[:, :keep])
            self._rotated, self.consistent = False, True
        if krylov.used and krylov.beta == 0:
            krylov.rotate(self._random())
            self._rotated = True
        krylov.step()
        self.products += 1
        self._measured = False
        self.done = self._judge()

    def _judge(self) -> bool:
        """Return whether the requested pairs have converged."""
        krylov = self._krylov
        values, vectors = self._ritz()
        self._values = values[: self._k]
        self._residuals = krylov.beta * vectors[-1, : self._k].abs()
        scale = float(values.abs().max())
        self._targets = self._tol * self._values.abs().clamp(min=1e-3 * scale)
        if krylov.used == self._op.dimension:
            return True
        # After leaving an invariant space its values look exact, but others may be missing.
        looked = krylov.used == krylov.size or not (self._rotated or krylov.beta == 0)
        enough = len(self._values) == self._k and looked
        # More products do not help if the residual of a pair is rounding error.
        rounding = max(self._rounding, krylov.noise)
        left = (self._targets**2 - rounding**2).clamp(min=0).sqrt()
        within = torch.where(left > 0.2 * rounding, left, rounding)
        return enough and bool((self._residuals <= within).all())

    def measure(self) -> bool:
        """Measure the operator's rounding; return whether the pairs have converged."""
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
        # Rounding errors are not aligned with the newest vector.
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
        """Return the state of the search."""
        complete = len(self._values) == self._k
        ratios = self._residuals / self._targets.clamp(min=torch.finfo(torch.float64).tiny)
        worst = float(ratios.max()) if complete else float("inf")
        converged = int((self._residuals <= self._targets).sum())
        return LanczosProgress(
            self.products, converged, self._k, worst, memory, self._values.clone()
        )

    def _random(self) -> Tensor:
        # Drawn on the CPU, so that the start is the same on all devices and processes.
        numbers = torch.randn(self._op.dimension, generator=self._generator, dtype=self._op.dtype)
        return numbers.to(self._op.device)

    def _ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T in the requested order, and its eigenvectors as columns."""
        values, vectors = torch.linalg.eigh(self._krylov.triangle)
        keys = {"largest": -values, "smallest": values, "magnitude": -values.abs()}
        order = keys[self._which].argsort()
        return values[order], vectors[:, order]

    def save(self, path: Path) -> None:
        """Save the state of the search."""
        krylov = self._krylov
        tensors = {
            "basis": krylov.basis[: krylov.used + 1],
            "projected": krylov.projected,
            "generator": self._generator.get_state(),
        }
        numbers = {
            **{"used": krylov.used, "beta": krylov.beta, "noise": krylov.noise},
            **{"scale": krylov.scale, "products": self.products},
            **{"rounding": self._rounding, "turned": self._rotated, "done": self.done},
        }
        meta = {"version": _VERSION, "operator": self._operator}
        save_checkpoint(path, tensors, meta | {"identity": self._identity, "numbers": numbers})

    def load(self, path: Path) -> None:
        """Continue where another search stopped.

        Raises:
            ValueError: If the file is damaged or of another search.
        """
        tensors, meta = load_checkpoint(path)
        found = meta.get("identity")
        if found != self._identity:
            raise ValueError(
                f"{path} belongs to another search ({found}, not {self._identity}): delete it "
                "or give another file"
            )
        version = meta.get("version", 1)
        numbers = meta["numbers"]
        if version > _VERSION or "rounding" not in numbers:
            raise ValueError(
                f"{path} has version {version} of a search's state, this dirprune reads up to "
                f"{_VERSION}: resume with the dirprune that wrote it, or delete it to start again"
            )
        operator = meta.get("operator")
        if self._operator is not None and operator not in (None, self._operator):
            raise ValueError(
                f"{path} belongs to another matrix (other weights, data or loss): delete it or "
                "give another file"
            )
        krylov = self._krylov
        krylov.basis[: len(tensors["basis"])] = tensors["basis"]
        krylov.projected = tensors["projected"]
        krylov.used, krylov.beta = numbers["used"], numbers["beta"]
        krylov.noise, krylov.scale = numbers["noise"], numbers["scale"]
        self.products, self._rotated = numbers["products"], numbers["turned"]
        self._rounding = numbers["rounding"]
        self._generator.set_state(tensors["generator"])
        if operator is None or self._operator is None:  # by version 0.1, or of a plain function
            self._check_operator(path)
        self.done = numbers["done"] and self._judge()

    def _check_operator(self, path: Path) -> None:
        """Compare one product with the projection that was saved."""
        krylov = self._krylov
        if not krylov.used:
            return
        product = self._op(krylov.basis[0])
        self.products += 1
        column = inner(krylov.basis[: krylov.used], product)
        error = float((column - krylov.projected[: krylov.used, 0]).norm())
        if not error <= 1e-2 * krylov.scale:  # above what rounding does at a network's kinks
            raise ValueError(
                f"{path} belongs to another matrix, whose product differs by "
                f"{error / max(krylov.scale, 1e-300):.1e}: delete it or give another file"
            )
