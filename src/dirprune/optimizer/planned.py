"""The parameters of a sparsity plan, and their thresholds after a step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from dirprune.batch import Group, ParameterBatch
from dirprune.changes import LastWeights, adopt
from dirprune.kernels import triton_step
from dirprune.kernels.rows import Row
from dirprune.optimizer.advance import State, lr_on, row_of
from dirprune.optimizer.options import power_of
from dirprune.plan import SparsityPlan
from dirprune.update import threshold

Member = tuple[Group, int, Tensor]
"""A parameter with its group and its position in it."""


class Planned:
    """A plan of an optimizer with the parameters that may change.

    Args:
        plan: The plan.
        groups: The optimizer's param groups; some have the plan.
        state: The optimizer's state.
    """

    def __init__(self, plan: SparsityPlan, groups: Sequence[Group], state: State) -> None:
        self.plan, self._state = plan, state
        self._groups = [group for group in groups if group["plan"] is plan]

    @property
    def power(self) -> float:
        """The exponent of the threshold function."""
        return power_of(self._groups[0])

    @property
    def is_structured(self) -> bool:
        """Whether blocks or groups of four are pruned instead of elements."""
        return self.plan.structure != "elements"

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Every parameter with its v."""
        return [(p, self._state[p]["v"]) for _, _, p in self._members()]

    def advance(self) -> bool:
        """Count a step; return whether the threshold is updated at it."""
        group = self._groups[0]
        if not group["capturable"]:
            return self.plan.advance()
        device = next(p.device for p in group["params"])
        self.plan.advance_on_device(lr_on(group, device) > 0)
        return True

    @_disable_dynamo
    def renew(self, last: LastWeights) -> None:
        """Choose the thresholds from all accumulators and apply them."""
        if not self.is_structured:
            for batch in self._choose(last):
                threshold(batch)
            return
        pairs = self.pairs()
        self.plan.apply_structure(pairs, self.power)
        for p, _ in pairs:
            self._state[p]["g"] = float(self.plan.threshold)

    def adopt_structure(self) -> None:
        """Set v from the weights of blocks or groups of four that were changed from outside."""
        self.plan.adopt_structure(self.pairs(), self.power)

    def structured_weights(self, accumulators: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Threshold other values of the accumulators, for the parameters in ``accumulators``."""
        pairs = [(p, accumulators[p]) for p, _ in self.pairs() if p in accumulators]
        new = self.plan.structured_weights(pairs, self.power)
        return {p: w for (p, _), w in zip(pairs, new)}

    def _members(self) -> list[Member]:
        return [
            (group, i, p)
            for group in self._groups
            for i, p in enumerate(group["params"])
            if p.requires_grad and "v" in self._state.get(p, {})
        ]

    def _choose(self, last: LastWeights) -> list[ParameterBatch]:
        members, state = self._members(), self._state
        if not members:  # all are frozen
            return []
        for group, _, p in members:
            if p.grad is None:
                g = float(state[p]["g"])
                batch = ParameterBatch.empty(group, 0.0, g, g, 0, power_of(group))
                batch.rows.append(row_of(p, None, state[p]))
                last.adopt_changed(batch)
                if not p.is_cpu:
                    adopt(batch)
        accumulators = [state[p]["v"] for _, _, p in members]
        if members[0][0]["capturable"]:
            return self._batches_on_device(members, self.plan.choose_on_device(accumulators))
        levels = self.plan.choose(accumulators, [_name(*member) for member in members])
        if levels is None:
            return []
        parts: dict[tuple[Any, ...], list[tuple[Group, Row, float]]] = {}
        for (group, _, p), g in zip(members, levels):
            state[p]["g"] = g
            key: tuple[Any, ...] = id(group), p.dtype, p.device
            if not triton_step.is_chosen(group, p):
                key = *key, g  # only Triton takes rows with different thresholds together
            parts.setdefault(key, []).append((group, row_of(p, None, state[p]), g))
        batches = []
        for entries in parts.values():
            groups, rows, own = zip(*entries)
            batch = ParameterBatch.empty(groups[0], 0.0, own[0], own[0], 0, power_of(groups[0]))
            batch.rows.extend(rows)
            batches.append(batch.with_thresholds(own, own))
        return batches

    def _batches_on_device(
        self, members: Sequence[Member], levels: Sequence[Tensor]
    ) -> list[ParameterBatch]:
        """Write new thresholds into the state and group the parameters, without the host."""
        parts: dict[tuple[Any, ...], list[tuple[Group, Row, Tensor]]] = {}
        for (group, _, p), level in zip(members, levels):
            own = self._state[p]
            g = own["g"].copy_(torch.where(level.isfinite(), level, own["g"]))
            key = id(group), p.dtype, p.device
            parts.setdefault(key, []).append((group, row_of(p, None, own), g))
        batches = []
        for entries in parts.values():
            groups, rows, own_levels = zip(*entries)
            g = torch.stack(own_levels)
            power = power_of(groups[0])
            batches.append(ParameterBatch(groups[0], g, g, g, g, power, list(rows)))
        return batches


def _name(group: Group, index: int, p: Tensor) -> str:
    """The parameter's name if the optimizer was given names, otherwise its position."""
    if names := group.get("param_names"):
        return str(names[index])
    return f"parameter {index} of its group (shape {tuple(p.shape)})"
