"""AC/DC: alternating compressed and dense phases of training."""

from collections.abc import Iterable
from typing import Any

import torch

from dirprune.quantile import magnitudes
from dirprune.train.baselines.pruned import PrunedSGD

COMPRESSED = (*((k / 100, (k + 5) / 100) for k in range(10, 75, 10)), (0.85, 1.0))
"""Compressed phases as shares of the run. The paper's 100 epochs on ImageNet have a dense warm-up
of 10, phases of 5, a last dense phase of 10 and a last compressed phase of 15."""


class ACDC(PrunedSGD):
    """SGD that trains all weights in dense phases and only the largest in compressed phases.

    When a compressed phase begins, the smallest magnitudes over all prunable weights become zero
    and stay zero until it ends. When a dense phase begins, all weights are trained again, and the
    momentum starts at zero.

    Args:
        params: Parameters, or param groups; groups with ``prunable=False`` are not pruned.
        lr: Learning rate.
        zeros: Number of zeros in a compressed phase.
        total_steps: Optimizer steps of the whole run.
        options: ``momentum``, ``nesterov`` and ``weight_decay`` as in ``torch.optim.SGD``.

    Raises:
        ValueError: If there are fewer prunable weights than ``zeros``.

    References:
        AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks (Peste et al.,
        2021), algorithm 1, https://arxiv.org/abs/2106.12379

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -1.0, 2.0]))
        >>> optimizer = ACDC([w], lr=1.0, zeros=1, total_steps=20)
        >>> for _ in range(3):
        ...     w.grad = torch.zeros(3)
        ...     optimizer.step()
        >>> w.detach()
        tensor([3., 0., 2.])
    """

    def __init__(
        self, params: Iterable[Any], lr: float, zeros: int, total_steps: int, **options: Any
    ) -> None:
        super().__init__(params, lr, zeros, **options)
        self._zeros, self._total = zeros, total_steps

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Begin a phase if it is due, and take one step."""
        step = self.param_groups[0]["step"]
        before, now = self._is_compressed(step - 1), self._is_compressed(step)
        if now and not before:
            self.prune_smallest(magnitudes(self.prunable()), self._zeros)
            self.apply_masks()
        elif before and not now:
            self._decompress()
        loss = super().step(closure)
        self.count_step()
        self.apply_masks()
        return loss

    def _is_compressed(self, step: int) -> bool:
        within = any(a * self._total <= step < b * self._total for a, b in COMPRESSED)
        return step >= 0 and (within or step >= self._total - 1)  # also in very short runs

    def _decompress(self) -> None:
        for state in self.state.values():
            state.pop("pruned", None)
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"].zero_()
