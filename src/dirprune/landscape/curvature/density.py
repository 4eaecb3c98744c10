r"""The density of a spectrum, and the distribution of a direction's energy over it.

The spectral measure of a symmetric matrix with eigenpairs :math:`(\lambda_i, u_i)` and a direction
d is

.. math:: F_d(t) = \sum_{\lambda_i \le t} \frac{(u_i^\top d)^2}{\lVert d \rVert^2}

The Lanczos process started at d gives its Gauss quadrature. The mean over random directions is the
density of eigenvalues.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dirprune._support.precision import true_float32
from dirprune.landscape.curvature.krylov import Krylov, LinearOperator, check_memory, length

_TEMPORARY = 4


@true_float32()
def rayleigh_quotient(op: LinearOperator, d: Tensor) -> float:
    r"""Return the mean curvature along a direction, from one product.

    .. math:: \frac{d^\top H d}{d^\top d} = \int t\,\mathrm{d}F_d(t)

    Args:
        op: H.
        d: Not zero, with shape (d,).

    Raises:
        ValueError: If d is zero, not finite or does not fit.

    Example:
        >>> from dirprune.landscape import MatrixOperator
        >>> op = MatrixOperator(torch.tensor([1.0, 3.0]).diag())
        >>> rayleigh_quotient(op, torch.tensor([0.0, 2.0]))
        3.0
    """
    krylov = Krylov(op, d, 1)
    krylov.step()
    return float(krylov.projected[0, 0])


@dataclass(frozen=True)
class SpectralDensity:
    r"""Quadratures of a spectrum from several random directions.

    Attributes:
        nodes: :math:`\theta`, in float64 with shape (probes, steps).
        weights: :math:`\omega`, each row sums to 1, with shape (probes, steps).
        dimension: d, the number of eigenvalues.
        noise: Rounding error of the operator, which limits the accuracy of the nodes.
    """

    nodes: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)
    dimension: int
    noise: float

    def mean(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        r"""Estimate the mean of a function over all eigenvalues, such as the trace over d.

        .. math:: \frac1d \operatorname{tr} f(H) \approx \frac1K \sum_k \sum_j
            \omega_{kj} f(\theta_{kj})

        Args:
            function: f, maps a tensor to one of the same shape.

        Returns:
            The estimate and its standard error over the probes, nan for a single one.
        """
        probes = (self.weights * function(self.nodes)).sum(dim=1)
        spread = float(probes.std() / math.sqrt(len(probes))) if len(probes) > 1 else math.nan
        return float(probes.mean()), spread

    def cumulative(self, t: float) -> tuple[float, float]:
        """Estimate the share of eigenvalues up to t, with its standard error over the probes."""
        return self.mean(lambda nodes: (nodes <= t).double())

    def smooth(self, grid: Tensor, width: float) -> Tensor:
        r"""Draw the density: every node becomes a bell curve.

        .. math:: \phi(t) = \frac1K \sum_{kj} \omega_{kj}\, \mathcal N(t; \theta_{kj}, \sigma^2)

        Args:
            grid: Points t, with shape (G,).
            width: :math:`\sigma > 0`, chosen for the picture.

        Returns:
            The density, with shape (G,), in float64; its integral over all t is 1.
        """
        if not width > 0:
            raise ValueError(f"the width of the bell curves must be above 0, got {width}")
        distance = (grid.double()[:, None] - self.nodes.flatten()) / width
        bells = torch.exp(-0.5 * distance**2) / (width * math.sqrt(2 * math.pi))
        return bells @ self.weights.flatten() / len(self.nodes)


@true_float32()
def spectral_density(
    op: LinearOperator,
    *,
    probes: int = 4,
    steps: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SpectralDensity:
    r"""Estimate the density of eigenvalues by stochastic Lanczos quadrature.

    .. math:: \frac1d \#\{\lambda_i \le t\} = \mathbb E_z F_z(t), \qquad z \sim \mathcal N(0, I)

    Args:
        op: H.
        probes: K, the number of random directions.
        steps: Products per direction; with d products the measure of a direction is exact.
        seed: Seed of the directions.
        progress: Called after every product with the number done and their total.

    Returns:
        Nodes and weights of every probe.

    Raises:
        ValueError: If a number is below 1, memory does not suffice, or a product is not finite.

    References:
        Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature (Ubaru, Chen and Saad, 2017);
        An Investigation into Neural Net Optimization via Hessian Eigenvalue Density (Ghorbani,
        Krishnan and Xiao, 2019), https://arxiv.org/abs/1901.10159

    Example:
        >>> from dirprune.landscape import MatrixOperator
        >>> matrix = torch.tensor([0.0, 0.0, 0.0, 8.0], dtype=torch.float64).diag()
        >>> density = spectral_density(MatrixOperator(matrix), probes=400, steps=4)
        >>> abs(density.cumulative(1.0)[0] - 0.75) < 0.05
        True
    """
    if probes < 1:
        raise ValueError(f"the density needs at least 1 probe, got {probes}")
    generator = torch.Generator().manual_seed(seed)
    report = progress or (lambda done, total: None)
    nodes, weights, noise = [], [], 0.0
    for probe in range(probes):
        start = torch.randn(op.dimension, generator=generator, dtype=op.dtype).to(op.device)

        def report_progress(done: int, _: int, before: int = probe * steps) -> None:
            report(before + done, probes * steps)

        seen = directional_density(op, start, steps, progress=report_progress)
        missing = (0, steps - len(seen.nodes))  # the space was exhausted: its measure is exact
        nodes.append(torch.nn.functional.pad(seen.nodes, missing))
        weights.append(torch.nn.functional.pad(seen.weights, missing))
        noise = max(noise, seen.noise)
    return SpectralDensity(torch.stack(nodes), torch.stack(weights), op.dimension, noise)


@dataclass(frozen=True)
class DirectionalDensity:
    r"""The energy of one direction over the spectrum, from m products.

    Attributes:
        nodes: Gauss nodes :math:`\theta`, ascending, in float64 with shape (m,).
        weights: Shares of the energy :math:`\lVert d \rVert^2`, with shape (m,).
        triangle: The Jacobi matrix of the measure, with shape (m, m).
        beta: Its next off-diagonal entry, 0 if the quadrature is the measure itself.
        norm: :math:`\lVert d \rVert`.
        noise: Rounding error of the operator. The bounds hold for a matrix that differs by this
            much, so thresholds of this size are not meaningful.
    """

    nodes: Tensor
    weights: Tensor
    triangle: Tensor = field(repr=False)
    beta: float
    norm: float
    noise: float

    @property
    def rayleigh(self) -> float:
        r"""The mean curvature :math:`d^\top H d / d^\top d`, exact."""
        return float(self.triangle[0, 0])

    def cumulative(self, t: float) -> tuple[float, float]:
        r"""Bound the share of energy in eigenvalues up to t.

        The quadrature with :math:`m + 1` nodes, one of them t, is exact for polynomials of
        degree 2 m. For such a rule the inequalities of Chebyshev, Markov and Stieltjes hold:

        .. math::
            \sum_{\theta_i < t} \omega_i \le F(t^-) \le F(t) \le \sum_{\theta_i \le t} \omega_i

        These are the tightest bounds from the same products; they differ by the weight of t.

        Args:
            t: Any threshold.

        Returns:
            Lower and upper bound, in [0, 1]: of the share below t, and of that up to t.

        References:
            The Classical Moment Problem (Akhiezer, 1965), section 2.5; Matrices, Moments and
            Quadrature with Applications (Golub and Meurant, 2010), section 6.2
        """
        nodes, weights, place = _with_node(self.triangle, self.beta, t)
        if place is None:
            below, there = weights[nodes < t].sum(), weights[nodes == t].sum()
        else:
            below, there = weights[:place].sum(), weights[place]
        return _clip(below), _clip(below + there)

    def between(self, low: float, high: float) -> tuple[float, float]:
        """Bound the share of energy in eigenvalues from low to high, ends included.

        Args:
            low: Lower end of the band, or -infinity.
            high: Upper end of the band, at least ``low``, or infinity.

        Returns:
            Lower and upper bound, in [0, 1].
        """
        if not low <= high:
            raise ValueError(f"a band goes from low to high, got {low} to {high}")
        below = (0.0, 0.0) if low == -math.inf else self.cumulative(low)
        up_to = (1.0, 1.0) if high == math.inf else self.cumulative(high)
        return max(0.0, up_to[0] - below[1]), max(0.0, up_to[1] - below[0])

    def above(self, t: float) -> tuple[float, float]:
        """Bound the share of energy in eigenvalues above t: the sharp directions."""
        lower, upper = self.cumulative(t)
        return 1 - upper, 1 - lower


@true_float32()
def directional_density(
    op: LinearOperator,
    d: Tensor,
    steps: int = 50,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> DirectionalDensity:
    r"""Compute the distribution of a direction's energy over the spectrum.

    Lanczos started at d: eigenvalues :math:`\theta_i` of its matrix :math:`T = S \Theta S^\top`
    are the nodes, :math:`\omega_i = S_{1i}^2` the weights of the Gauss quadrature of
    :math:`F_d`.

    Args:
        op: H.
        d: Any direction, such as the difference of two solutions, with shape (d,).
        steps: m, products with H.
        progress: Called after every product with the number done and their total.

    Returns:
        The quadrature, with rigorous bounds for the share on any band.

    Raises:
        ValueError: If d is zero or does not fit, steps is below 1, or memory does not suffice.

    References:
        Matrices, Moments and Quadrature with Applications (Golub and Meurant, 2010)

    Example:
        >>> from dirprune.landscape import MatrixOperator
        >>> matrix = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64).diag()
        >>> direction = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
        >>> density = directional_density(MatrixOperator(matrix), direction)
        >>> [round(share, 6) for share in density.above(0.5)]
        [0.64, 0.64]
    """
    if steps < 1:
        raise ValueError(f"the density needs at least 1 step, got {steps}")
    check_memory(op, min(steps, op.dimension) + _TEMPORARY)
    report = progress or (lambda done, total: None)
    krylov = Krylov(op, d, steps)
    for done in range(1, krylov.size + 1):
        krylov.step()
        report(done, krylov.size)
        if krylov.beta == 0:
            break
    triangle = krylov.triangle.clone()
    nodes, weights = _quadrature(triangle)
    return DirectionalDensity(nodes, weights, triangle, krylov.beta, length(d), krylov.noise)


def _quadrature(triangle: Tensor) -> tuple[Tensor, Tensor]:
    nodes, vectors = torch.linalg.eigh(triangle)
    return nodes, vectors[0] ** 2


def _with_node(triangle: Tensor, beta: float, t: float) -> tuple[Tensor, Tensor, int | None]:
    r"""The quadrature with t as an additional node, and the index of t.

    The matrix grows by :math:`\beta` and the entry that makes t an eigenvalue:

    .. math:: \alpha' = t + \delta_m, \qquad (T_m - t I)\,\delta = \beta^2 e_m
    """
    nodes, vectors = torch.linalg.eigh(triangle)
    if beta == 0:  # the Gauss quadrature is the measure
        return nodes, vectors[0] ** 2, None
    gaps = nodes - t
    closest = int(gaps.abs().argmin())
    size = len(nodes)
    if float(gaps[closest].abs()) <= 1e-14 * float(nodes.abs().max()):
        return nodes, vectors[0] ** 2, closest  # t is a node already
    entry = t + beta**2 * float((vectors[-1] ** 2 / gaps).sum())
    larger = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    larger[:size, :size] = triangle
    larger[size, size - 1] = larger[size - 1, size] = beta
    larger[size, size] = entry
    nodes, weights = _quadrature(larger)
    # The two spectra interlace: as many nodes lie below t as T has eigenvalues there.
    return nodes, weights, int((gaps < 0).sum())


def _clip(share: Tensor) -> float:
    return min(1.0, max(0.0, float(share)))
