"""Coordinates of a plane in weight space."""

from typing import NamedTuple

import torch
from torch import Tensor

from dirprune.landscape.objectives.points import ParameterLayout, Point

COLLINEAR = 1e-6
"""Sine of the angle below which two directions are treated as parallel."""


class Coordinates(NamedTuple):
    """Coordinates of a point relative to a plane.

    Attributes:
        x: Coordinate along the first axis.
        y: Coordinate along the second axis.
        distance: Distance from the plane.
    """

    x: float
    y: float
    distance: float


class Frame:
    r"""An origin and two axes, in float64.

    .. math:: w(x, y) = o + x\,u + y\,v

    Args:
        origin: o, with shape (d,).
        axes: u and v as rows, with shape (2, d); neither zero nor parallel.

    Raises:
        ValueError: If the axes span no plane.

    Example:
        >>> frame = Frame(torch.zeros(3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
        >>> frame.at(3.0, 1.0)
        tensor([3., 2., 0.])
        >>> frame.project(torch.tensor([1.0, 4.0, 7.0]))
        Coordinates(x=1.0, y=2.0, distance=7.0)
    """

    def __init__(self, origin: Tensor, axes: Tensor) -> None:
        self.origin = origin.double()
        self.axes = axes.double()
        self._gram = self.axes @ self.axes.mT
        u, v = self._gram.diag().sqrt().tolist()
        if not (u > 0 and v > 0):
            raise ValueError("a direction of the plane is zero: give two nonzero directions")
        sine = max(0.0, 1 - float(self._gram[0, 1] / (u * v)) ** 2) ** 0.5
        if not sine > COLLINEAR:
            raise ValueError(
                "the two directions of the plane are parallel: give some that span a plane"
            )
        self._dtype = origin.dtype

    @classmethod
    def through(cls, a: Point, b: Point, c: Point) -> "Frame":
        r"""Span the plane through three points by orthonormal axes (Gram-Schmidt).

        .. math:: u = \frac{b - a}{\lVert b - a \rVert}, \qquad
            v = \frac{(I - u u^\top)(c - a)}{\lVert (I - u u^\top)(c - a) \rVert}

        Args:
            a: The origin.
            b: A point on the first axis.
            c: A point with a positive second coordinate.

        Raises:
            ValueError: If the points are on one line.

        Example:
            >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 1.0]])
            >>> a, b, c = (Point(w, {}) for w in corners)
            >>> Frame.through(a, b, c).project(c.w)
            Coordinates(x=3.0, y=1.0, distance=0.0)
        """
        u, v = b.w.double() - a.w.double(), c.w.double() - a.w.double()
        u /= u.norm()
        length = float(v.norm())
        for _ in range(2):  # once leaves rounding along u where v is nearly parallel
            v -= (u @ v) * u
        if not float(v.norm()) > COLLINEAR * length:
            raise ValueError(
                "the three points lie on one line (or two are the same): give three that span a "
                "plane, such as two ends and the fitted bend between them"
            )
        return cls(a.w, torch.stack([u, v / v.norm()]))

    def at(self, x: float, y: float) -> Tensor:
        """Return the weights at coordinates, in the dtype of the origin and with shape (d,)."""
        w = self.origin + x * self.axes[0]
        return w.add_(self.axes[1], alpha=y).to(self._dtype)

    def project(self, w: Tensor) -> Coordinates:
        """Find the nearest point of the plane.

        Args:
            w: Weights with shape (d,).
        """
        off = w.double() - self.origin
        place = torch.linalg.solve(self._gram, self.axes @ off)
        x, y = place.tolist()
        return Coordinates(x, y, float((off - place @ self.axes).norm()))


def filter_normalised(layout: ParameterLayout, w: Tensor, seed: int) -> Tensor:
    r"""Draw a random direction whose filters have the norms of the network's filters.

    .. math:: d_f \leftarrow \frac{d_f}{\lVert d_f \rVert} \lVert w_f \rVert,
        \qquad d_f \sim \mathcal N(0, I)

    for every filter f (output channel, row) of each weight. The direction is zero for biases and
    normalisation.

    Args:
        layout: Layout of the model's weights.
        w: The weights, with shape (d,).
        seed: Seed of the direction.

    Returns:
        The direction, with shape (d,).

    References:
        Visualizing the Loss Landscape of Neural Nets (Li et al., 2018), section 4,
        https://arxiv.org/abs/1712.09913

    Example:
        >>> layout = ParameterLayout(torch.nn.Linear(2, 2))
        >>> d = filter_normalised(layout, torch.tensor([3.0, 4.0, 0.0, 1.0, 9.0, 9.0]), seed=1)
        >>> d[:2].norm(), d[2:4].norm(), d[4:]
        (tensor(5.), tensor(1.), tensor([0., 0.]))
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.zeros_like(w)
    for weight, d in zip(layout.tensors(w).values(), layout.tensors(direction).values()):
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(w)
            rows, own = drawn.flatten(1), weight.flatten(1)
            scale = own.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)
            d.copy_((rows * scale).view_as(weight))
    return direction
