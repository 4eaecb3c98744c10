"""The options of a sparsity plan, checked and saved as plain numbers."""

import math
import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

Plan = TypeVar("Plan", bound="PlanState")


class PlanState:
    """Options and progress of a plan; attributes with an underscore are not saved."""

    sparsity: float
    steps: float
    begin: float
    end: float
    structure: str
    weighted: bool = False
    minimum: int
    step: int | Tensor
    threshold: float | Tensor

    def state_dict(self) -> dict[str, Any]:
        """Return the options and the progress as plain numbers."""
        state = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return state | {"step": int(self.step), "threshold": float(self.threshold)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore options and progress.

        Raises:
            ValueError: If only one of the plans prunes channels, or has costs.
        """
        self.check_state(state)
        for name in vars(self).keys() & state.keys():
            if name[0] != "_":
                setattr(self, name, state[name])
        self._check()

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that a saved plan prunes the same as this one.

        Args:
            state: From :meth:`state_dict`.

        Raises:
            ValueError: If only one of the plans prunes channels, or has costs.
        """
        saved = state.get("structure", self.structure), state.get("weighted", self.weighted)
        own = self.structure, self.weighted
        if saved != own and "channels" in (saved[0], own[0]):
            words = [kind + (" with costs" if weighted else "") for kind, weighted in (saved, own)]
            raise ValueError(
                f"the saved plan is for {words[0]}, this one for {words[1]}, and blocks and costs "
                "are not part of the state: make the plan as before, then load the state"
            )

    @classmethod
    def from_state_dict(cls: type[Plan], state: Mapping[str, Any]) -> Plan:
        """Make a plan from a saved state.

        Raises:
            ValueError: If the plan prunes channels.
        """
        if state["structure"] == "channels":
            raise ValueError(
                "the saved plan prunes channels, and its blocks are not part of the state: make "
                "the optimizer with the plan, then load the state"
            )
        plan = cls(state["sparsity"], state["steps"])  # type: ignore[call-arg]
        plan.load_state_dict(state)
        return plan

    def __repr__(self) -> str:
        """Show the options."""
        return (
            f"SparsityPlan({self.sparsity}, steps={self.steps}, begin={self.begin}, "
            f"end={self.end}, structure={self.structure!r}, minimum={self.minimum})"
        )

    def _check(self) -> None:
        """Convert the options to plain numbers, and check them."""
        for name in ("sparsity", "steps", "begin", "end", "minimum"):
            setattr(self, name, _plain_number(name, getattr(self, name)))
        if not 0 <= self.sparsity < 1:
            raise ValueError(
                f"sparsity must lie in [0, 1), got {self.sparsity}: give a share, 0.9 for 90 %"
            )
        if not 1 <= self.steps < math.inf:
            raise ValueError(f"steps must be at least 1 and finite, got {self.steps}")
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"begin and end must satisfy 0 <= begin < end <= 1, got {self.begin}, {self.end}"
            )
        if self.structure not in ("elements", "2:4", "channels"):
            raise ValueError(
                f'structure must be "elements", "2:4" or "channels", got {self.structure!r}'
            )
        if self.structure == "2:4" and self.sparsity != 0.5:
            raise ValueError(f'structure="2:4" needs sparsity=0.5, got {self.sparsity}')
        if not isinstance(self.minimum, int) or self.minimum < 0:
            raise ValueError(f"minimum must be at least 0 and whole, got {self.minimum}")


def _plain_number(name: str, value: Any) -> int | float:
    """Convert a number of NumPy or torch, which torch.load(weights_only=True) would refuse."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    return int(number) if name in ("steps", "minimum") and number.is_integer() else number
