"""AC/DC: alternating compressed and dense phases of training."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from dirprune.quantile import mark_smallest
from dirprune.train.baselines.masked import magnitudes

COMPRESSED = (*((k / 100, (k + 5) / 100) for k in range(10, 75, 10)), (0.85, 1.0))
"""Compressed phases as shares of the run: the paper's 100 epochs on ImageNet, with a dense warm-up
of 10, phases of 5, a last dense phase of 10 and a last compressed one of 15."""


class ACDC(SGD):
    """SGD that trains all weights in dense phases and the largest ones in compressed phases.

    When a compressed phase begins, the smallest magnitudes over all prunable weights become zero
    and stay zero until it ends. When a dense phase begins, all weights are trained again, and the
    momentum starts at zero.

    Args:
        params: Parameters, or param groups; in those with ``prunable=False`` nothing is pruned.
        lr: Learning rate.
        zeros: Zeros in a compressed phase.
        total_steps: Optimizer steps of the whole run.
        momentum: Heavy-ball factor in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: Coefficient of an l2 penalty.

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
        self,
        params: Iterable[Any],
        lr: float,
        zeros: int,
        total_steps: int,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )
        for group in self.param_groups:
            group.setdefault("prunable", True)
            group["step"] = 0
        self._zeros, self._total = zeros, total_steps
        prunable = sum(p.numel() for p in self._prunable())
        if zeros > prunable:
            raise ValueError(
                f"sparsity asks for {zeros} zeros, but only {prunable} weights may be pruned: "
                "give a smaller sparsity, or prune all"
            )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Begin a phase if its time has come, and take one step.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or None.
        """
        step = self.param_groups[0]["step"]
        before, now = self._is_compressed(step - 1), self._is_compressed(step)
        if now and not before:
            self._compress()
        elif before and not now:
            self._decompress()
        loss = super().step(closure)
        for group in self.param_groups:
            group["step"] += 1
        self._mask()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit.

        Args:
            state_dict: From an optimizer with the same groups.
        """
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "pruned" in state:
                state["pruned"] = state["pruned"].bool()  # torch gives it the weights' dtype

    def _is_compressed(self, step: int) -> bool:
        within = any(a * self._total <= step < b * self._total for a, b in COMPRESSED)
        return step >= 0 and (within or step >= self._total - 1)  # however short the run

    def _compress(self) -> None:
        weights = self._prunable()
        for p, pruned in zip(
            weights, mark_smallest(magnitudes(weights), self._zeros), strict=True
        ):
            self.state[p]["pruned"] = torch.empty_like(p, dtype=torch.bool).copy_(pruned)
        self._mask()

    def _decompress(self) -> None:
        for state in self.state.values():
            state.pop("pruned", None)
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"].zero_()

    def _mask(self) -> None:
        for p, state in self.state.items():
            if "pruned" in state:
                p.masked_fill_(state["pruned"], 0.0)
                if state.get("momentum_buffer") is not None:
                    state["momentum_buffer"].masked_fill_(state["pruned"], 0.0)

    def _prunable(self) -> list[Tensor]:
        groups = [group["params"] for group in self.param_groups if group["prunable"]]
        return [p for params in groups for p in params if p.requires_grad]
