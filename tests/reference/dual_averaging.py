"""Adam's direction, power thresholds and planned sparsity from the equations, in Python floats.

Nothing is shared with the package. Slow on purpose.
"""

import math


def power_threshold(v: float, g: float, p: float) -> float:
    """sign(v) [|v|^p - g^p]_+^(1/p)."""
    if abs(v) <= g:
        return 0.0
    size = abs(v) if math.isinf(p) else (abs(v) ** p - g**p) ** (1 / p)
    return math.copysign(size, v)


def planned_sparsity(final: float, step: int, steps: int, begin: float, end: float) -> float:
    """Zhu & Gupta (2017), equation 1, with s_i = 0."""
    t0, t1 = begin * steps, end * steps
    if step <= t0:
        return 0.0
    return final if step >= t1 else final - final * (1 - (step - t0) / (t1 - t0)) ** 3


class AdamModel:
    """All weights of a model: Adam's direction in v, one quantile as the threshold."""

    def __init__(self, w: list[float]) -> None:
        self.w, self.v = list(w), list(w)
        self.m, self.s = [0.0] * len(w), [0.0] * len(w)
        self.n = 0

    def step(
        self, gradient: list[float], *, lr: float, betas: tuple[float, float], eps: float,
        weight_decay: float, p: float, sparsity: float,
    ) -> None:  # fmt: skip
        self.n += 1
        for i, d in enumerate(gradient):
            self.m[i] = betas[0] * self.m[i] + (1 - betas[0]) * d
            self.s[i] = betas[1] * self.s[i] + (1 - betas[1]) * d * d
            m_hat = self.m[i] / (1 - betas[0] ** self.n)
            s_hat = self.s[i] / (1 - betas[1] ** self.n)
            self.v[i] -= lr * (weight_decay * self.w[i] + m_hat / (math.sqrt(s_hat) + eps))
        zeros = round(sparsity * len(self.v))
        g = sorted(map(abs, self.v))[zeros - 1] if zeros else 0.0
        self.w = [power_threshold(v, g, p) for v in self.v]
