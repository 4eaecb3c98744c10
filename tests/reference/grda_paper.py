"""Reference gRDA from the paper's equations, for one coordinate, in Python floats.

Nothing is shared with the package. Slow on purpose.
"""

import math


class Coordinate:
    """One weight: v_0 = w_0; g and n advance at the steps with a gradient and a rate above 0."""

    def __init__(self, w: float) -> None:
        self.w = self.v = w
        self.n = 0
        self.g = 0.0
        self.velocity: float | None = None

    def step(
        self,
        gradient: float,
        *,
        lr: float,
        c: float,
        mu: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        d = (-gradient if maximize else gradient) + weight_decay * self.w
        if momentum > 0:
            self.velocity = d if self.velocity is None else momentum * self.velocity + d
            d = d + momentum * self.velocity if nesterov else self.velocity
        if lr > 0:
            self.n += 1
            gamma = lr / (1 - momentum)
            law = math.pow(self.n, mu) - math.pow(self.n - 1, mu)
            self.g += c * math.sqrt(gamma) * math.pow(gamma, mu) * law
        self.v -= lr * d
        self.w = math.copysign(max(abs(self.v) - self.g, 0.0), self.v)
