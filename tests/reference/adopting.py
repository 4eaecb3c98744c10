"""Reference GRDA and AdamGRDA that adopt outside changes, from the equations, tensor by tensor.

Nothing is shared with the package. Slow on purpose.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from reference.kernel_step import adam_step, gradient_step, state_dtype, threshold


class AdoptingOptimizer:
    """One weight tensor; before each step, v follows all outside changes of ``w``.

    Args:
        w: The weights, changed in place.
        c: Scale of the paper's threshold.
        lr: Learning rate.
        mu: Growth exponent.
        momentum: Heavy-ball factor, in Nesterov's form.
        power: Of the threshold.
        adam: Whether the direction is Adam's.
    """

    def __init__(
        self,
        w: Tensor,
        *,
        c: float,
        lr: float,
        mu: float = 0.51,
        momentum: float = 0.0,
        power: float = 1.0,
        adam: bool = False,
    ) -> None:
        self.w, self.c, self.lr, self.mu, self.power = w, c, lr, mu, power
        self.momentum, self.adam = momentum, adam
        self.v = w.to(state_dtype(w.dtype), copy=True)
        self.m, self.s = torch.zeros_like(self.v), torch.zeros_like(self.v)
        self.n, self.g = 0, 0.0

    def step(self, grad: Tensor) -> None:
        """Adopt outside changes, increase the threshold, descend, threshold."""
        w, p = self.w.to(self.v.dtype), self.power
        left = threshold(self.v, self.g, p).to(self.w.dtype)
        nearest = torch.where(
            w == 0,
            self.v.clamp(-self.g, self.g),
            w.sign() * (w.abs() ** p + self.g**p) ** (1 / p),
        )
        self.v = torch.where(self.w == left, self.v, nearest)
        self.n += 1
        rate = self.lr / (1 - self.momentum)
        growth = self.n**self.mu - (self.n - 1) ** self.mu
        self.g += self.c * math.sqrt(rate) * rate**self.mu * growth
        rule = SimpleNamespace(
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=0.0,
            maximize=False,
            betas=(0.9, 0.999),
            eps=1e-8,
            n=self.n,
        )
        row: list[Any] = [w, self.v, grad.to(self.v.dtype), self.m, self.s]
        (adam_step if self.adam else gradient_step)(row, rule, self.g, p)
        self.v, self.m, self.s = row[1], row[3], row[4]
        self.w.copy_(row[0])
