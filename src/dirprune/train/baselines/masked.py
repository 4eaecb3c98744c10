"""Pruning by masks: SGD that sets weights to zero during the run and keeps them at zero."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dirprune.cubic_path import cubic_sparsity
from dirprune.train.baselines.pruned import PrunedSGD

ScoreFunction = Callable[[Sequence[Tensor]], list[Tensor]]
"""Maps weights to nonnegative scores of the same shapes; the smallest are pruned first."""


class MaskedSGD(PrunedSGD):
    r"""SGD that prunes at chosen steps; pruned weights stay zero.

    At every step of the plan, the weights with the smallest scores are pruned, so that their
    number is that of the plan. Pruned weights and their momenta are set to zero after every step:

    .. math:: w_t = m_t \odot (w_{t-1} - \gamma_t d_t), \qquad m_t \le m_{t-1}

    Args:
        params: Parameters, or param groups; groups with ``prunable=False`` are not pruned.
        lr: Learning rate.
        plan: Maps a step, counted from 1, to the number of pruned weights after it; the number
            never decreases.
        scores: Scores of the weights; they are compared over all groups together.
        options: ``momentum``, ``nesterov`` and ``weight_decay`` as in ``torch.optim.SGD``.

    Raises:
        ValueError: If the plan prunes more weights than there are prunable weights.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -1.0, 2.0]))
        >>> from dirprune.quantile import magnitudes
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
        scores: ScoreFunction,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, max(plan.values(), default=0), **options)
        self._plan, self._scores = dict(plan), scores

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, prune if the plan says so, and set pruned weights to zero."""
        loss = super().step(closure)
        number = self._plan.get(self.count_step())
        if number is not None:
            self._prune(number)
        self.apply_masks()
        return loss

    def _prune(self, number: int) -> None:
        weights = self.prunable()
        scores = self._scores(weights)
        for p, score in zip(weights, scores, strict=True):
            if "pruned" in self.state[p]:
                score.masked_fill_(self.state[p]["pruned"], -1.0)  # pruned weights stay pruned
        self.prune_smallest(scores, number)


def random_scores(seed: int) -> ScoreFunction:
    """Make random scores that do not depend on the weights, the same at every call.

    Args:
        seed: Seed of the run; the scores use another random stream than the initial weights.
    """
    stream = int(np.random.SeedSequence((seed, 0x6D61736B)).generate_state(1)[0])

    def scores(weights: Sequence[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(stream)
        return [torch.rand(w.shape, generator=generator).to(w.device) for w in weights]

    return scores


def gradual_plan(total_steps: int, final: float, weights: int) -> dict[int, int]:
    """Plan gradual pruning on the cubic path, between a tenth and four fifths of a run.

    The mask grows every 100 steps, as in the original, or more often in short runs, so that it
    grows at least 20 times.

    Args:
        total_steps: Steps of the run, at least 1.
        final: Share of zeros at the end.
        weights: Number of weights, the denominator of the share.

    Returns:
        Maps a step, counted from 1, to the number of zeros; the last number is exact.

    Example:
        >>> plan = gradual_plan(1000, final=0.9, weights=100)
        >>> list(plan)[:3], list(plan.items())[-1]
        ([100, 135, 170], (800, 90))
    """
    begin, end = max(1, round(0.1 * total_steps)), max(1, round(0.8 * total_steps))
    every = max(1, min(100, (end - begin) // 20))
    shares = {t: (t - begin) / (end - begin) for t in range(begin, end, every)} | {end: 1.0}
    return {t: round(weights * cubic_sparsity(final, done)) for t, done in shares.items()}


def one_shot_plan(total_steps: int, final: float, weights: int) -> dict[int, int]:
    """Plan to prune once, at four fifths of a run; the remaining steps are fine-tuning.

    Args:
        total_steps: Steps of the run, at least 1.
        final: Share of zeros after pruning.
        weights: Number of weights, the denominator of the share.

    Returns:
        Maps the step, counted from 1, to the number of zeros.

    Example:
        >>> one_shot_plan(1000, final=0.9, weights=50)
        {800: 45}
    """
    return {max(1, round(0.8 * total_steps)): round(weights * final)}
