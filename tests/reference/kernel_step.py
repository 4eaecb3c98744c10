"""One step of GRDA and AdamGRDA in float64, from the equations, tensor by tensor."""

import math
from typing import Any

import torch
from torch import Tensor

# full blocks and a remainder, less than a block, one element, none
SHAPES = [(45, 50), (7,), (), (0,), (4, 3, 3, 3)]


def threshold(v: Tensor, g: float, power: float) -> Tensor:
    """T_p(v, g) = sign(v) [|v|^p - g^p]_+^(1/p)."""
    if power == math.inf:
        return torch.where(v.abs() > g, v, 0.0)
    return v.sign() * (v.abs() ** power - g**power).clamp(min=0) ** (1 / power)


def gradient_step(row: list[Any], rule: Any, g: float, power: float) -> None:
    """Row: w, v, gradient, momentum, unused; w, v and momentum are replaced."""
    w, v, grad, m, _ = row
    d = (-grad if rule.maximize else grad) + rule.weight_decay * w
    m = rule.momentum * m + d
    d = d + rule.momentum * m if rule.nesterov else m
    v = v - rule.lr * d
    row[0], row[1], row[3] = threshold(v, g, power), v, m


def adam_step(row: list[Any], rule: Any, g: float, power: float) -> None:
    """Row: w, v, gradient, first and second moment; all but the gradient are replaced."""
    w, v, grad, m, s = row
    first, second = rule.betas
    grad = -grad if rule.maximize else grad
    m = first * m + (1 - first) * grad
    s = second * s + (1 - second) * grad**2
    unbiased = m / (1 - first**rule.n), s / (1 - second**rule.n)
    v = v - rule.lr * (unbiased[0] / (unbiased[1].sqrt() + rule.eps) + rule.weight_decay * w)
    row[0], row[1], row[3], row[4] = threshold(v, g, power), v, m, s


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def tensors(
    dtype: torch.dtype, moments: int, device: str = "cpu", seed: int = 0
) -> list[tuple[Tensor | None, ...]]:
    """Rows of several shapes, one in channels-last order, one at an odd address."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for shape in SHAPES:
        w = torch.randn(shape, generator=generator).to(device, dtype)
        if w.ndim == 4:
            w = w.to(memory_format=torch.channels_last)
        if w.ndim == 1 and len(w):
            w = torch.cat([w[:1], w])[1:]
        state = [torch.zeros_like(w, dtype=state_dtype(dtype)) for _ in range(moments)]
        grad = torch.empty_like(w).copy_(torch.randn(shape, generator=generator))
        rows.append(
            (w, w.to(state_dtype(dtype), copy=True), grad, *state, *[None] * (2 - moments))
        )
    return rows


def close(actual: Tensor, expected: Tensor, p: float = 1.0) -> None:
    """Compare in the dtype's precision; at p > 1 small weights are roots of small differences."""
    eps = torch.finfo(actual.dtype).eps
    atol = 4 * eps if p in (1.0, float("inf")) else 60 * min(eps, 2.0**-23) + eps
    torch.testing.assert_close(actual.double(), expected, rtol=8 * eps, atol=8 * atol)
    assert not actual[actual == 0].signbit().any()
