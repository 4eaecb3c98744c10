"""The options of a param group: their ranges and defaults."""

import math
import numbers

from torch import Tensor

from dirprune._support import native
from dirprune.batch import Group
from dirprune.plan import SparsityPlan
from dirprune.prox import check_power


def check_group(group: Group, name: str) -> None:
    """Check the options and the parameters of a new param group.

    Raises:
        ValueError: If an option is out of its range, or a plan does not fit a parameter.
        TypeError: If an option is not a number, or a parameter is complex.
    """
    check_options(group)
    for p in group["params"]:
        if group["plan"] is not None:
            group["plan"].check_parameter(p)
        if p.is_complex():
            raise TypeError(
                f"{name} needs real parameters, got {p.dtype} of shape "
                f"{tuple(p.shape)}; optimise torch.view_as_real of it"
            )


def check_options(group: Group) -> None:
    """Check the options that every dual averaging optimizer has.

    Raises:
        ValueError: If an option is out of its range.
        TypeError: If an option is not a number, or the plan is not a SparsityPlan.
    """
    check_numbers(group, "lr", "c", "mu", "weight_decay")
    if group["power"] is not None:
        check_numbers(group, "power")
    if not 0 < group["mu"] <= 1:
        raise ValueError(f"mu must lie in (0, 1], got {group['mu']}")
    check_power(power_of(group))
    plan = group["plan"]
    if not isinstance(plan, SparsityPlan | None):
        raise TypeError(
            f"plan must be a SparsityPlan or None, got {plan!r}: give "
            "SparsityPlan(0.9, steps) for 90 % zeros"
        )
    if plan is not None and plan.structure != "elements" and group["capturable"]:
        raise ValueError(f'structure="{plan.structure}" needs capturable=False')
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach and fused cannot be combined: leave one of them None")
    if group["fused"] and native.grda_step() is None:
        raise ValueError(
            "fused=True needs dirprune's C++ extension, which this installation lacks: use "
            "fused=None for the fastest available path"
        )


def check_numbers(group: Group, *options: str) -> None:
    """Check that options are numbers (``lr`` also as a tensor), and scales at least 0 and finite.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If ``lr``, ``c``, ``weight_decay`` or ``eps`` is out of its range.
    """
    for option in options:
        value = group[option]
        if not isinstance(value, numbers.Real) and not (
            option == "lr" and isinstance(value, Tensor) and value.numel() == 1
        ):
            raise TypeError(f"{option} must be a number, got {value!r}")
    for option in options:
        if isinstance(group[option], Tensor) and group["capturable"]:
            continue  # reading it would synchronise with the device
        if option in ("lr", "c", "weight_decay", "eps") and not 0 <= group[option] < math.inf:
            raise ValueError(f"{option} must be at least 0 and finite, got {group[option]}")


def power_of(group: Group) -> float:
    """Return a group's power p: by default 1, the paper's, and 2 with a plan."""
    power: float | None = group["power"]
    if power is None:
        return 1.0 if group["plan"] is None else 2.0
    return power
