"""Bezier curves between the weights of two networks; the straight line has no bends."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import comb

import numpy as np
import torch
from torch import Tensor

from dirprune.landscape.objectives.points import Point


def bernstein(degree: int, t: float) -> list[float]:
    r"""Weights of the control points of a Bezier curve.

    .. math:: B_k(t) = \binom{n}{k} t^k (1 - t)^{n - k}, \qquad k = 0 \dots n

    Args:
        degree: n, at least 0.
        t: In [0, 1].

    Returns:
        n + 1 weights, at least 0, that sum to 1; exactly 1 and 0 at the ends.

    Example:
        >>> bernstein(2, 0.5)
        [0.25, 0.5, 0.25]
    """
    return [comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]


@dataclass(frozen=True)
class Curve:
    r"""A curve from one network to another.

    .. math:: w(t) = \sum_{k=0}^n B_k(t)\,p_k, \qquad p_0 = a, \quad p_n = b

    Attributes:
        a: The first point.
        b: The last point.
        bends: The control points in between, with shape (n - 1, d); none for a straight line.

    Example:
        >>> a, b = Point(torch.zeros(2), {}), Point(torch.tensor([3.0, 4.0]), {})
        >>> line = Curve(a, b, torch.empty(0, 2))
        >>> line.at(0.5), line.length
        (tensor([1.5000, 2.0000]), 5.0)
    """

    a: Point
    b: Point
    bends: Tensor

    @property
    def degree(self) -> int:
        """The degree n of the polynomial, one more than there are bends."""
        return len(self.bends) + 1

    def at(self, t: float) -> Tensor:
        """Return the weights at t in [0, 1], with shape (d,); exactly a and b at the ends."""
        first, *inner, last = bernstein(self.degree, t)
        w = first * self.a.w + last * self.b.w
        for weight, bend in zip(inner, self.bends):
            w.add_(bend, alpha=weight)
        return w

    @property
    def distance(self) -> float:
        """The distance of the ends."""
        return float((self.b.w.double() - self.a.w.double()).norm())

    @cached_property
    def length(self) -> float:
        r"""The length, to about 12 digits.

        .. math:: \int_0^1 \lVert w'(t) \rVert\,dt, \qquad
            w'(t) = n \sum_{k=0}^{n-1} B_k^{n-1}(t)\,(p_{k+1} - p_k)

        The inner products of the differences are computed once; the integral over t is scalar.
        """
        gram, nodes = self._gram(), _GAUSS
        panels, length = 1, 0.0
        while panels <= 2**12:
            edges = np.arange(panels)[:, None]
            ts = ((edges + nodes[0]) / panels).ravel()
            b = np.array([bernstein(self.degree - 1, float(t)) for t in ts])
            speeds = np.sqrt(np.maximum(np.einsum("ti,ij,tj->t", b, gram, b), 0.0))
            before, length = length, float(speeds @ np.tile(nodes[1], panels)) / panels
            if abs(length - before) <= 1e-12 * length:
                break
            panels *= 2
        return length

    def _gram(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        control = [self.a.w, *self.bends, self.b.w]
        steps = [self.degree * (q.double() - p.double()) for p, q in pairwise(control)]
        return np.array([[float(x @ y) for y in steps] for x in steps])


def _gauss_legendre() -> "tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], ...]":
    nodes, weights = np.polynomial.legendre.leggauss(32)
    return (nodes + 1) / 2, weights / 2


_GAUSS = _gauss_legendre()


def straight_line(a: Point, b: Point) -> Curve:
    """Return the straight line between two points."""
    return Curve(a, b, a.w.new_empty(0, len(a.w)))


def bent_line(a: Point, b: Point, bends: int) -> Curve:
    """Return the straight line as a curve of higher degree with constant speed.

    Raises:
        ValueError: If ``bends`` is below 1.
    """
    if bends < 1:
        raise ValueError(f"a curve needs at least 1 bend, got {bends}; straight_line has none")
    ts = [k / (bends + 1) for k in range(1, bends + 1)]
    return Curve(a, b, torch.stack([torch.lerp(a.w, b.w, t) for t in ts]))
