"""RigL: sparse training from the start, with connections that move."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dirprune.train.baselines.pruned import PrunedSGD


class RigL(PrunedSGD):
    r"""SGD on a fixed number of active weights per layer, whose positions change regularly.

    At a change, every layer deactivates the share

    .. math:: \frac{\alpha}{2} \bigl(1 + \cos(\pi t / T_{end})\bigr)

    of its active weights, those of smallest magnitude. Then it activates as many of the inactive
    weights, those with the largest gradient; they start at 0. As in the paper, a change replaces
    the step of the optimizer. All other steps are SGD on the active weights.

    Args:
        params: Parameters, or param groups; groups with ``prunable=False`` and vectors are dense.
        lr: Learning rate.
        zeros: Inactive weights, distributed over the layers by :func:`erdos_renyi_kernel`.
        total_steps: Optimizer steps T of the whole run; the positions are fixed after
            ``end`` T steps.
        alpha: Share :math:`\alpha` of a layer's weights that the first change moves.
        every: Steps between changes; fewer in short runs, so that there are at least 20 changes.
        end: Share of the steps after which positions no longer change.
        seed: Seed of the first positions.
        options: ``momentum``, ``nesterov`` and ``weight_decay`` as in ``torch.optim.SGD``.

    Raises:
        ValueError: If there are fewer prunable weights than ``zeros``.

    References:
        Rigging the Lottery: Making All Tickets Winners (Evci et al., 2020), algorithm 1,
        https://arxiv.org/abs/1911.11134

    Example:
        >>> w = torch.nn.Parameter(torch.ones(4, 5))
        >>> optimizer = RigL([w], lr=0.1, zeros=10, total_steps=100)
        >>> int((w == 0).sum())
        10
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        zeros: int,
        total_steps: int,
        *,
        alpha: float = 0.3,
        every: int = 100,
        end: float = 0.75,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, zeros, **options)
        self._alpha, self._last = alpha, round(end * total_steps)
        self._every = max(1, min(every, self._last // 20))
        self._choose_positions(zeros, seed)

    @torch.no_grad()
    def _choose_positions(self, zeros: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        prunable = self.prunable()
        numbers = erdos_renyi_kernel([tuple(p.shape) for p in prunable], zeros)
        for p, active in zip(prunable, numbers, strict=True):
            positions = torch.randperm(p.numel(), generator=generator)[:active].to(p.device)
            pruned = torch.ones(p.numel(), dtype=torch.bool, device=p.device)
            pruned[positions] = False
            self.set_pruned(p, pruned.view(p.shape))
        self.apply_masks()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, or change the positions."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        step = self.count_step()
        if step % self._every == 0 and step < self._last:
            share = self._alpha / 2 * (1 + math.cos(math.pi * step / self._last))
            for p in self.prunable():
                if p.grad is not None:
                    self._move(p, p.grad, share)
        else:
            super().step()
        self.apply_masks()
        return loss

    def prunable(self) -> list[Tensor]:
        """The parameters in which weights may be pruned: no vectors."""
        return [p for p in super().prunable() if p.dim() > 1]

    def _move(self, p: Tensor, gradient: Tensor, share: float) -> None:
        active = ~self.state[p]["pruned"]
        count = int(share * int(active.sum()))
        if not count:
            return
        sizes = torch.where(active, p.abs(), math.inf).flatten()
        kept = active.flatten()
        kept[sizes.topk(count, largest=False).indices] = False
        gains = torch.where(kept, -1.0, gradient.abs().flatten())
        grown = torch.zeros_like(kept)
        grown[gains.topk(count).indices] = True
        self.set_pruned(p, ~(kept | grown).view(p.shape))
        self.clear(p, grown.view(p.shape))


def erdos_renyi_kernel(shapes: Sequence[tuple[int, ...]], zeros: int) -> list[int]:
    r"""Distribute active weights over layers; small layers get a higher density.

    A layer's density is :math:`\epsilon \sum_i n_i / \prod_i n_i` over its dimensions, at most 1.
    One :math:`\epsilon` for all layers gives the requested number of zeros.

    Args:
        shapes: Shapes of the layers' weights.
        zeros: Number of inactive weights over all layers.

    Returns:
        Number of active weights of every layer; their sum is exactly all weights minus ``zeros``.

    Raises:
        ValueError: If there are fewer weights than ``zeros``.

    References:
        Rigging the Lottery: Making All Tickets Winners (Evci et al., 2020), section 3,
        https://arxiv.org/abs/1911.11134

    Example:
        >>> erdos_renyi_kernel([(10, 10), (100, 100)], 8000)
        [100, 2000]
    """
    sizes = [math.prod(shape) for shape in shapes]
    left = sum(sizes) - zeros
    if left < 0:
        raise ValueError(
            f"sparsity needs {zeros} zeros, but only {sum(sizes)} weights can be pruned: give "
            "a smaller sparsity"
        )
    dense: set[int] = set()
    while True:
        sparse = [i for i in range(len(sizes)) if i not in dense]
        remaining = left - sum(sizes[i] for i in dense)
        scale = remaining / max(1, sum(sum(shapes[i]) for i in sparse))
        full = {i for i in sparse if scale * sum(shapes[i]) >= sizes[i]}
        if not full:
            break
        dense |= full
    counts = [sizes[i] if i in dense else int(scale * sum(shapes[i])) for i in range(len(sizes))]
    for i in sorted(sparse, key=lambda i: sizes[i] - counts[i], reverse=True):  # rounding
        missing = left - sum(counts)
        counts[i] += min(missing, sizes[i] - counts[i])
    return counts
