"""BatchNorm statistics of networks that were not trained, such as points between two networks."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dirprune.batchnorm import refresh_statistics
from dirprune.landscape.objectives.inputs import arguments
from dirprune.landscape.objectives.objective import Objective
from dirprune.landscape.objectives.points import Point

Policy = Literal["refresh", "interpolate", "eval"]


class BatchNormStatistics:
    r"""Loads weights into an objective's model, with the buffers that the policy gives them.

    - ``refresh`` re-estimates BatchNorm's statistics on all of the objective's inputs, as
      :func:`dirprune.refresh_batchnorm` does.
    - ``interpolate`` uses :math:`\sum_i a_i m_i` of the statistics :math:`m_i` of the known
      points, with shares :math:`a_i \ge 0`, :math:`\sum_i a_i = 1`.
    - ``eval`` uses the stored statistics of the nearest known point.

    All other buffers are those of the nearest known point. The policy also applies at the known
    points: :meth:`shift` measures the difference to their stored statistics.

    Args:
        objective: Its model is written to; ``refresh`` reads its inputs.
        policy: refresh, interpolate or eval.
        known: Networks with their own statistics, at least one.

    Raises:
        ValueError: If the policy is unknown.

    Attributes:
        policy: The given policy.
        known: The given networks.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 1))
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> objective = Objective(model, torch.nn.functional.mse_loss, (x, x))
        >>> point = objective.layout.point(model.state_dict())
        >>> BatchNormStatistics(objective, "refresh", [point]).load(point.w, [1.0])
        >>> objective.model[0].running_mean
        tensor([2.])
    """

    def __init__(self, objective: Objective, policy: Policy, known: Sequence[Point]) -> None:
        if policy not in get_args(Policy):
            raise ValueError(
                f"unknown BatchNorm policy {policy!r}: use one of {', '.join(get_args(Policy))}"
            )
        self.policy = policy
        self._objective = objective
        self.known = known
        self._names = {
            kind: [
                f"{name}.{kind}"
                for name, m in objective.model.named_modules()
                if isinstance(m, _BatchNorm) and m.track_running_stats
            ]
            for kind in ("running_mean", "running_var")
        }

    def load(self, w: Tensor, shares: Sequence[float]) -> None:
        """Load weights and the buffers that the policy gives them.

        Args:
            w: The weights, with shape (d,).
            shares: Share of each known point; negative shares, outside of all known points, are
                treated as 0.
        """
        nearest = self.known[0]
        if len(self.known) > 1:
            nearest = min(self.known, key=lambda p: float((p.w - w).norm()))
        rest = dict(nearest.rest)
        if self.policy == "interpolate":
            weights = torch.tensor(shares, dtype=torch.float64).clamp(min=0)
            weights /= weights.sum()
            for name in (n for names in self._names.values() for n in names):
                stored = torch.stack([p.rest[name] for p in self.known])
                rest[name] = torch.tensordot(weights.to(stored), stored, 1)
        self._objective.load(Point(w, rest))
        if self.policy == "refresh":
            calls = (arguments(inputs) for inputs, _ in self._objective.batches())
            refresh_statistics(self._objective.model, calls)

    def shift(self, index: int) -> dict[str, float] | None:
        r"""Load a known point, and compare its statistics with the stored ones.

        .. math:: \lVert m - m_{\text{stored}} \rVert / \lVert m_{\text{stored}} \rVert

        Returns:
            The relative difference of all ``running_mean`` and ``running_var``, over all layers,
            infinite if the stored ones are 0; None if the model has no running statistics.
        """
        if not any(self._names.values()):
            return None
        self.load(self.known[index].w, [float(i == index) for i in range(len(self.known))])
        now, stored = dict(self._objective.model.named_buffers()), self.known[index].rest
        found = {}
        for kind, names in self._names.items():
            old = torch.cat([stored[name].double() for name in names])
            new = torch.cat([now[name].double() for name in names])
            off = float((new - old).norm())
            length = float(old.norm())
            found[kind] = off / length if length else math.inf if off else 0.0
        return found
