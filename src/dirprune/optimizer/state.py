"""Saving and loading an optimizer's state bit-identically, in the saved dtypes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from dirprune.batch import Group
from dirprune.plan import SparsityPlan

COUNTERS = ("n", "g", "step")
"""Entries of a parameter's state that are numbers, or tensors with ``capturable``."""


class ExactState(Optimizer):
    """Saving and loading, with plans as options and float32 state for half precision."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state like torch's optimizers, with plans as plain dictionaries."""
        state = super().state_dict()
        index = {id(plan): i for i, plan in enumerate(all_plans(self.param_groups))}
        for group in state["param_groups"]:
            if isinstance(plan := group["plan"], SparsityPlan):
                group["plan"] = {"index": index[id(plan)], **plan.state_dict()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit-identically, in the saved dtypes.

        torch's method would cast accumulators and momenta to the parameter's dtype, which loses
        the float32 accumulators of half-precision parameters. Like all options, plans are taken
        from the saved state. A state of version 0.1 has no plans and does not change them.

        Args:
            state_dict: From :meth:`state_dict` of an optimizer with the same groups.

        Raises:
            ValueError: If the groups or the parameters' shapes differ, or only one of two plans
                prunes channels or has costs.
        """
        loaded: dict[str, Any] = {}
        plans: list[SparsityPlan | None] = []

        def see(_: Optimizer, processed: dict[str, Any]) -> None:
            loaded.update(processed)
            saved_sizes, sizes = (
                [len(group["params"]) for group in groups]
                for groups in (processed["param_groups"], self.param_groups)
            )
            if saved_sizes != sizes:  # otherwise the shapes of other parameters are compared
                raise ValueError(
                    f"the saved param groups have {saved_sizes} parameters, the optimizer's "
                    f"{sizes}: make the optimizer with the same groups as the saved one"
                )
            plans.extend(_assign_plans(processed["param_groups"], self.param_groups))
            for p, saved in self._pairs(processed):
                for key, value in saved.items():
                    is_array = isinstance(value, Tensor) and key not in COUNTERS
                    if is_array and value.shape != p.shape:
                        raise ValueError(
                            f"the saved {key} has shape {tuple(value.shape)}, the parameter "
                            f"{tuple(p.shape)}: load the state of an optimizer of this model"
                        )

        def restore(_: Optimizer) -> None:
            for p, saved in self._pairs(loaded):
                for key, value in saved.items():
                    if key in COUNTERS:
                        self.state[p][key] = value.item() if isinstance(value, Tensor) else value
                    elif isinstance(value, Tensor):
                        self.state[p][key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
            for group, saved, plan in zip(self.param_groups, loaded["param_groups"], plans):
                group["plan"] = plan
                if plan is not None and "plan" in saved:
                    plan.load_state_dict(saved["plan"])

        hooks = [
            self.register_load_state_dict_pre_hook(see),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        ]
        try:
            with torch.no_grad():
                super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _pairs(self, state_dict: dict[str, Any]) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield every parameter with its state in the dictionary."""
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        parameters = (p for group in self.param_groups for p in group["params"])
        return ((p, state_dict["state"].get(i, {})) for p, i in zip(parameters, saved))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle or a deep copy, also of an older version."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option, value in self.defaults.items():
                group.setdefault(option, value)


def all_plans(groups: Iterable[Group]) -> list[SparsityPlan]:
    """Return every plan of param groups once, in the order of the groups."""
    return list({id(p): p for group in groups if (p := group["plan"]) is not None}.values())


def _assign_plans(saved: Iterable[Group], present: Iterable[Group]) -> list[SparsityPlan | None]:
    """Return the plan that each group gets: its own one where possible, otherwise a new one.

    Nothing is changed. Groups that shared a plan share one again. A group of version 0.1 has no
    plan in its state and keeps its own.

    Raises:
        ValueError: If a plan's blocks or costs cannot be restored.
    """
    plans: list[SparsityPlan | None] = []
    used: dict[int, SparsityPlan] = {}
    for group, own in zip(saved, present):
        plan, state = own["plan"], group.get("plan")
        if isinstance(state, dict):
            if state["index"] not in used:
                if plan is None or any(plan is other for other in used.values()):
                    plan = SparsityPlan.from_state_dict(state)
                plan.check_state(state)
                used[state["index"]] = plan
            plans.append(used[state["index"]])
        else:
            plans.append(plan if "plan" not in group else None)
    return plans
