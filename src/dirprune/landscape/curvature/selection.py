"""Comparing methods for the same product, and choosing the fastest correct one."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dirprune._support.processes import broadcast_from_rank0
from dirprune.landscape.curvature.autograd import NotTwiceDifferentiable, ProductEngine


class Check(NamedTuple):
    r"""Errors of products that should be zero, relative to the length of a product.

    Attributes:
        asymmetry: :math:`|u^\top H v - v^\top H u|` over the lengths of u and H v.
        difference: Difference of two products with the same vector.
    """

    asymmetry: float
    difference: float


def compare(u: Tensor, v: Tensor, once: Tensor, again: Tensor, other: Tensor) -> Check:
    """Compare products: ``once`` and ``again`` are those with v, ``other`` is that with u."""
    length = max(float(once.norm()), float(other.norm()), torch.finfo(v.dtype).tiny)
    asymmetry = abs(float(u @ once - v @ other)) / (length * float(u.norm()))
    return Check(asymmetry, float((once - again).norm()) / length)


def fastest(
    engines: Mapping[str, ProductEngine],
    multiply: Callable[[ProductEngine, Tensor], Tensor],
    u: Tensor,
    v: Tensor,
) -> tuple[str, dict[str, float]]:
    """Time every method on two vectors, and choose the fastest one with symmetric products.

    Returns:
        The name of the fastest method, and seconds per product of every method that works.

    Raises:
        TypeError: If an operation of the model has no second derivative.
        ValueError: If products are random or not symmetric.
    """
    timings: dict[str, float] = {}
    products: dict[str, tuple[Tensor, Tensor]] = {}
    failures: list[Exception] = []
    for name, engine in engines.items():
        try:
            once = multiply(engine, v)
            start = time.perf_counter()
            products[name] = (once, multiply(engine, v))
            timings[name] = time.perf_counter() - start
        except Exception as error:  # noqa: PERF203  torch's forward mode lacks some operations
            failures.append(error)
    missing = [f for f in failures if isinstance(f, NotTwiceDifferentiable)]
    if not timings:
        if missing:
            raise TypeError(str(missing[0])) from missing[0]
        raise failures[0]
    rounding = torch.finfo(v.dtype).eps ** 0.5
    order = broadcast_from_rank0(sorted(timings, key=lambda name: timings[name]))
    for name in order:
        check = compare(u, v, *products[name], multiply(engines[name], u))
        if check.difference <= rounding and check.asymmetry <= rounding:
            return name, timings
    if missing:  # and the other ways ignore that without an error
        raise TypeError(str(missing[0])) from missing[0]
    if not check.difference <= rounding:
        raise ValueError(
            f"two products with the same vector differ by {check.difference:.1e} of their "
            "length: is there randomness in the model that evaluation mode does not turn off?"
        )
    raise ValueError(
        f"the products are not symmetric, u'Hv - v'Hu is {check.asymmetry:.1e} of its "
        "size: does an operation of the model have a wrong or missing second derivative?"
    )
