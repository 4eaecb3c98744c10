"""SGD with masks: what its relatives that prune share."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from dirprune.quantile import mark_smallest


class PrunedSGD(SGD):
    r"""SGD with a mask for every weight; what is pruned, and its momentum, is zero after a step.

    .. math:: w_t = m_t \odot (w_{t-1} - \gamma_t d_t)

    Args:
        params: Parameters, or param groups; in those with ``prunable=False`` nothing is pruned.
        lr: Learning rate.
        zeros: The largest number of weights that are pruned at a time.
        options: ``momentum``, ``nesterov`` and ``weight_decay`` as in ``torch.optim.SGD``.

    Raises:
        ValueError: If there are fewer prunable weights than ``zeros``.
    """

    def __init__(self, params: Iterable[Any], lr: float, zeros: int, **options: Any) -> None:
        super().__init__(params, lr, **options)
        for group in self.param_groups:
            group.setdefault("prunable", True)
            group["step"] = 0
        prunable = sum(p.numel() for p in self.prunable())
        if zeros > prunable:
            raise ValueError(
                f"sparsity asks for {zeros} zeros, but only {prunable} weights may be pruned: "
                "give a smaller sparsity, or prune all"
            )

    def prunable(self) -> list[Tensor]:
        """The parameters in which weights may be pruned."""
        groups = [group["params"] for group in self.param_groups if group["prunable"]]
        return [p for params in groups for p in params if p.requires_grad]

    def count_step(self) -> int:
        """Count a step; return how many there have been."""
        for group in self.param_groups:
            group["step"] += 1
        step: int = self.param_groups[0]["step"]
        return step

    def prune_smallest(self, scores: Sequence[Tensor], number: int) -> None:
        """Choose what is pruned from now on.

        Args:
            scores: Of every prunable parameter.
            number: How many of the smallest scores are pruned, over all parameters together.
        """
        for p, pruned in zip(self.prunable(), mark_smallest(scores, number), strict=True):
            self.set_pruned(p, pruned)

    def set_pruned(self, p: Tensor, pruned: Tensor) -> None:
        """Choose what of a parameter is pruned from now on."""
        # In the memory format of the weights, in which filling them is quick.
        self.state[p]["pruned"] = torch.empty_like(p, dtype=torch.bool).copy_(pruned)

    def apply_masks(self) -> None:
        """Set to zero what is pruned, with its momentum."""
        for p, state in self.state.items():
            if "pruned" in state:
                self.clear(p, state["pruned"])

    def clear(self, p: Tensor, places: Tensor) -> None:
        """Set weights and their momentum to zero."""
        p.masked_fill_(places, 0.0)
        if self.state[p].get("momentum_buffer") is not None:
            self.state[p]["momentum_buffer"].masked_fill_(places, 0.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit.

        Args:
            state_dict: From an optimizer with the same groups.
        """
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "pruned" in state:
                state["pruned"] = state["pruned"].bool()  # torch gives it the weights' dtype
