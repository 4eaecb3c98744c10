"""Pruning by masks: SGD whose weights are set to zero in the course of the run and stay there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD

from dirprune.quantile import mark_smallest

Scores = Callable[[Sequence[Tensor]], list[Tensor]]
"""From the weights to scores of the same shapes, at least 0: the smallest are pruned first."""


class MaskedSGD(SGD):
    r"""SGD that prunes at chosen steps; what is pruned is zero from then on.

    After step t of the plan, the smallest scores are pruned until their number is that of the
    plan. Pruned weights and their momenta are set to zero after every step:

    .. math:: w_t = m_t \odot (w_{t-1} - \gamma_t d_t), \qquad m_t \le m_{t-1}

    Args:
        params: Parameters, or param groups; in those with ``prunable=False`` nothing is pruned.
        lr: Learning rate.
        plan: Step, counted from 1, to the number of pruned weights after it; it never shrinks.
        scores: Says what goes first, over all groups together.
        momentum: Heavy-ball factor in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: Coefficient of an l2 penalty.

    Raises:
        ValueError: If the plan asks for more weights than may be pruned.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -1.0, 2.0]))
        >>> optimizer = MaskedSGD([w], lr=1.0, plan={2: 1}, scores=magnitudes)
        >>> for _ in range(3):
        ...     w.grad = torch.tensor([0.5, 0.5, 0.5])
        ...     optimizer.step()
        >>> w.detach()
        tensor([ 1.5000, -2.5000,  0.0000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        plan: Mapping[int, int],
        scores: Scores,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )
        for group in self.param_groups:
            group.setdefault("prunable", True)
            group["step"] = 0
        self._plan, self._scores = dict(plan), scores
        prunable = sum(p.numel() for p in self._prunable())
        if max(self._plan.values(), default=0) > prunable:
            raise ValueError(
                f"sparsity asks for {max(self._plan.values())} zeros, but only {prunable} weights "
                "may be pruned: give a smaller sparsity, or prune all"
            )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, prune if its time has come, and put pruned weights back to zero.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or None.
        """
        loss = super().step(closure)
        for group in self.param_groups:
            group["step"] += 1
        number = self._plan.get(self.param_groups[0]["step"])
        if number is not None:
            self._prune(number)
        for p, state in self.state.items():
            if "pruned" in state:
                p.masked_fill_(state["pruned"], 0.0)
                if state.get("momentum_buffer") is not None:
                    state["momentum_buffer"].masked_fill_(state["pruned"], 0.0)
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

    def _prune(self, number: int) -> None:
        weights = self._prunable()
        scores = self._scores(weights)
        for p, score in zip(weights, scores, strict=True):
            if "pruned" in self.state[p]:
                score.masked_fill_(self.state[p]["pruned"], -1.0)  # none comes back
        for p, pruned in zip(weights, mark_smallest(scores, number), strict=True):
            # In the memory format of the weights, in which filling them is quick.
            self.state[p]["pruned"] = torch.empty_like(p, dtype=torch.bool).copy_(pruned)

    def _prunable(self) -> list[Tensor]:
        groups = [group["params"] for group in self.param_groups if group["prunable"]]
        return [p for params in groups for p in params if p.requires_grad]


def magnitudes(weights: Sequence[Tensor]) -> list[Tensor]:
    """Score every weight by its absolute value, in float32 or better."""
    return [w.detach().abs().to(torch.promote_types(w.dtype, torch.float32)) for w in weights]


def random_scores(seed: int) -> Scores:
    """Make scores that know nothing of the weights, the same at every call.

    Args:
        seed: Of the run; their random numbers are not those of the initial weights.

    Returns:
        A function for :class:`MaskedSGD`.
    """
    stream = int(np.random.SeedSequence((seed, 0x6D61736B)).generate_state(1)[0])

    def scores(weights: Sequence[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(stream)
        return [torch.rand(w.shape, generator=generator).to(w.device) for w in weights]

    return scores


def cubic_sparsity(step: int, begin: int, end: int, final: float) -> float:
    r"""Sparsity of gradual pruning at a step.

    .. math:: s_t = s_f + (0 - s_f) \left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3

    Args:
        step: :math:`t`; before ``begin`` nothing is pruned, from ``end`` on all is.
        begin: :math:`t_0`.
        end: :math:`t_1`, at least ``begin``.
        final: :math:`s_f`.

    Returns:
        The share of zeros, 0 to ``final``.

    References:
        To prune, or not to prune (Zhu & Gupta, 2017), equation 1,
        https://arxiv.org/abs/1710.01878

    Example:
        >>> [cubic_sparsity(t, 100, 200, 0.5) for t in (100, 150, 200)]
        [0.0, 0.4375, 0.5]
    """
    if step >= end:
        return final
    left = 1 - max(0, step - begin) / (end - begin)
    return final * (1 - left**3)


def gradual_plan(total_steps: int, final: float, weights: int) -> dict[int, int]:
    """Plan gradual pruning between a tenth and four fifths of a run.

    The mask grows every 100 steps, the original's choice, or oftener where that would be fewer
    than 20 times.

    Args:
        total_steps: Of the run, at least 1.
        final: Share of zeros at the end.
        weights: Of which that is the share.

    Returns:
        Step, counted from 1, to number of zeros; exact at the last one.

    Example:
        >>> plan = gradual_plan(1000, final=0.9, weights=100)
        >>> list(plan)[:3], list(plan.items())[-1]
        ([100, 135, 170], (800, 90))
    """
    begin, end = max(1, round(0.1 * total_steps)), max(1, round(0.8 * total_steps))
    every = max(1, min(100, (end - begin) // 20))
    steps = [*range(begin, end, every), end]
    return {t: round(weights * cubic_sparsity(t, begin, end, final)) for t in steps}


def one_shot_plan(total_steps: int, final: float, weights: int) -> dict[int, int]:
    """Plan to prune once, at four fifths of a run; the rest is fine-tuning.

    Args:
        total_steps: Of the run, at least 1.
        final: Share of zeros from then on.
        weights: Of which that is the share.

    Returns:
        Step, counted from 1, to number of zeros.

    Example:
        >>> one_shot_plan(1000, final=0.9, weights=50)
        {800: 45}
    """
    return {max(1, round(0.8 * total_steps)): round(weights * final)}
