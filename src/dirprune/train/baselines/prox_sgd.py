"""Proximal SGD: a step of SGD, then the proximal operator of the l1 penalty."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import SGD

from dirprune.prox import soft_threshold


class ProxSGD(SGD):
    r"""SGD on a loss with an l1 penalty, which is handled by its proximal operator.

    .. math:: w_n = S_{\gamma_n \lambda}(w_{n-1} - \gamma_n \nabla f(w_{n-1}))

    Unlike gRDA it has no accumulator: a weight at zero becomes nonzero only if its gradient in a
    single step exceeds :math:`\lambda`.

    Args:
        params: Parameters, or param groups; a group may have its own ``c``, such as 0.
        lr: Learning rate :math:`\gamma`.
        c: Weight :math:`\lambda` of the penalty, at least 0.
        weight_decay: Coefficient of an l2 penalty.

    References:
        Proximal Algorithms (Parikh & Boyd, 2014), section 4.2,
        https://web.stanford.edu/~boyd/papers/prox_algs.html

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.25]))
        >>> optimizer = ProxSGD([w], lr=0.5, c=0.5)
        >>> w.grad = torch.tensor([1.0, 0.25])
        >>> optimizer.step()
        >>> w.detach()
        tensor([0.2500, 0.0000])
    """

    def __init__(
        self, params: Iterable[Any], lr: float, c: float, *, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group.setdefault("c", c)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        loss = super().step(closure)
        for group in self.param_groups:
            if level := float(group["lr"]) * group["c"]:
                for p in group["params"]:
                    if p.grad is not None:
                        p.copy_(soft_threshold(p, level))
        return loss
