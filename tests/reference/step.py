"""One step of GRDA and AdamGRDA in float64, written from the equations, one tensor at a time."""

import math
from typing import Any

import torch
from torch import Tensor


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
