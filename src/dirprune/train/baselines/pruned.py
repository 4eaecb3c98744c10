"""SGD with masks, the base class of the optimizers that prune."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from dirprune.quantile import mark_smallest


class PrunedSGD(SGD):
    r"""SGD with a mask; pruned weights and their momenta are zero after every step.

    .. math:: w_t = m_t \odot (w_{t-1} - \gamma_t d_t)

    Args:
        params: Parameters, or param groups; groups with ``prunable=False`` are not pruned.
        lr: Learning rate.
        zeros: Maximum number of pruned weights.
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
                f"sparsity needs {zeros} zeros, but only {prunable} weights can be pruned: "
                "give a smaller sparsity, or prune all parameters (--prune all)"
            )

    def prunable(self) -> list[Tensor]:
        """Return the parameters that can be pruned."""
        groups = [group["params"] for group in self.param_groups if group["prunable"]]
        return [p for params in groups for p in params if p.requires_grad]

    def count_step(self) -> int:
        """Count a step, and return the number of steps so far."""
        for group in self.param_groups:
            group["step"] += 1
        step: int = self.param_groups[0]["step"]
        return step

    def prune_smallest(self, scores: Sequence[Tensor], number: int) -> None:
        """Prune the weights with the smallest scores, over all parameters together."""
        for p, pruned in zip(self.prunable(), mark_smallest(scores, number), strict=True):
            self.set_pruned(p, pruned)

    def set_pruned(self, p: Tensor, pruned: Tensor) -> None:
        """Set the mask of a parameter: the entries that are pruned."""
        # The memory format of the weights makes masked_fill_ fast.
        self.state[p]["pruned"] = torch.empty_like(p, dtype=torch.bool).copy_(pruned)

    def apply_masks(self) -> None:
        """Set pruned weights and their momenta to zero."""
        for p, state in self.state.items():
            if "pruned" in state:
                self.clear(p, state["pruned"])

    def clear(self, p: Tensor, mask: Tensor) -> None:
        """Set the weights under a mask and their momenta to zero."""
        p.masked_fill_(mask, 0.0)
        if self.state[p].get("momentum_buffer") is not None:
            self.state[p]["momentum_buffer"].masked_fill_(mask, 0.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit-identically."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "pruned" in state:
                state["pruned"] = state["pruned"].bool()  # torch converts it to the weights' dtype
