"""Advance counters and thresholds by a step, and group the parameters into batches.

The state of a parameter: n, the number of its steps with a gradient and a rate above 0; g, its
threshold; v, the accumulator, unless it is dense; and the state of the direction.
"""

import operator
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from dirprune.batch import Group, ParameterBatch, may_extend, state_dtype
from dirprune.kernels import triton_step
from dirprune.kernels.arrays import Arrays
from dirprune.kernels.extension import POWERS
from dirprune.kernels.prepared_group import PreparedGroup
from dirprune.kernels.rows import Row
from dirprune.optimizer.options import power_of
from dirprune.optimizer.state import COUNTERS
from dirprune.quantile import is_sharded, local_part
from dirprune.threshold import threshold_increment

State = MutableMapping[Tensor, dict[str, Any]]
"""An optimizer's state."""
Pairs = list[tuple[Tensor, Tensor]]
"""Parameters with their gradients."""


def advance_group(state: State, group: Group, pairs: Pairs, rate: float) -> list[ParameterBatch]:
    """Advance the counters and thresholds of a param group, which are Python numbers.

    Args:
        state: The optimizer's state, including the state of the direction.
        group: The param group.
        pairs: Its parameters with a gradient.
        rate: The effective learning rate, for the paper's threshold.

    Returns:
        Batches of parameters that share all scalars.
    """
    lr, power, plan = float(group["lr"]), power_of(group), group["plan"]
    c, mu = group["c"], group["mu"]
    if structured := plan is not None and plan.structure != "elements":
        power = 1.0  # the step leaves w = v, and the structure thresholds it
    grown: dict[tuple[int, float], tuple[int, float]] = {}
    members: dict[tuple[Any, ...], list[tuple[Row, float, Any]]] = {}
    for p, grad in pairs:
        own = state[p]
        before = own.get("n", 0), own.get("g", 0.0)
        after = grown.get(before)
        if after is None:
            after = grown[before] = _grown(*before, rate, 0.0 if plan else c, mu)
        own["n"], own["g"] = after
        if plan and "v" not in own:
            own["g"] = plan.threshold  # the threshold of the other parameters
        if "v" not in own and (plan or c > 0 or own["g"] > 0):
            own["v"] = p.detach().to(state_dtype(p), copy=True)
            before = 0, 0.0
        if "step" in own:
            own["step"] += 1
        step = own.get("step", 0)
        row = row_of(p, grad, own)
        g, g_before = (0.0, None) if structured else (own["g"], before[1])
        key: tuple[Any, ...] = step, p.dtype, p.device, row.v is None
        if not (plan and g_before is not None and triton_step.is_chosen(group, p)):
            key = *key, g, g_before  # only Triton steps rows with different thresholds together
        members.setdefault(key, []).append((row, g, g_before))
    batches = []
    for (step, *_), entries in members.items():
        rows, levels, before_levels = zip(*entries)
        batch = ParameterBatch.empty(group, lr, levels[0], before_levels[0], step, power)
        batch.rows.extend(rows)
        batches.append(batch.with_thresholds(levels, before_levels))
    return batches


def advance_on_device(
    state: State, group: Group, pairs: Pairs, factor: float
) -> list[ParameterBatch]:
    """Advance with all scalars on the device, so that a CUDA graph can repeat it.

    Parameters with equal counters share the tensors of their counters.

    Args:
        state: The optimizer's state, including the state of the direction.
        group: The param group.
        pairs: Its parameters with a gradient.
        factor: The effective learning rate at lr = 1.

    Returns:
        Batches of parameters that share all scalars.
    """
    plan, mu = group["plan"], group["mu"]
    places: dict[tuple[Any, ...], dict[str, Tensor]] = {}
    advanced: dict[int, tuple[Tensor, Tensor]] = {}
    batches: dict[tuple[Any, ...], ParameterBatch] = {}
    levels: dict[tuple[Any, ...], list[Tensor]] = {}
    for p, grad in pairs:
        own = state[p]
        if not isinstance(own.get("n"), Tensor):
            _place_counters(p, own, plan, places)
        n: Tensor = own["n"]
        g: Tensor = own["g"]
        step: Tensor = own.get("step", n)
        if "v" not in own and (plan or group["c"] > 0):
            own["v"] = p.detach().to(state_dtype(p), copy=True)
        lr = lr_on(group, p.device)
        if id(n) not in advanced:
            advanced[id(n)] = lr, g.clone()
            if step is not n:
                step += 1
            growth = (n + 1) ** mu - n**mu
            if not plan:
                g += group["c"] * (lr * factor) ** (mu + 0.5) * growth
            n += lr > 0
        lr, g_before = advanced[id(n)]
        row = row_of(p, grad, own)
        key = id(n), p.dtype, row.v is None
        if key not in batches:
            batches[key] = ParameterBatch(group, lr, g, g_before, step, power_of(group), [])
            levels[key] = []
        batches[key].rows.append(row)
        levels[key].append(g)
    if plan:  # every parameter has its own threshold, which a step does not change
        for key, own_levels in levels.items():
            g = torch.stack(own_levels)
            batches[key] = batches[key]._replace(g=g, g_before=g)
    return list(batches.values())


def advance_prepared(group: Group, prepared: PreparedGroup, rate: float) -> ParameterBatch:
    """Advance parameters that share n and step; faster than :func:`advance_group`."""
    states, c = prepared.states, 0.0 if group["plan"] else group["c"]
    levels = list(map(operator.itemgetter("g"), states))
    n, g = _grown(states[0]["n"], before := levels[0], rate, c, group["mu"])
    for own in states:
        own["n"] = n
    if c:
        for own in states:
            own["g"] = g
    step = 0
    if "step" in states[0]:
        step = states[0]["step"] + 1
        for own in states:
            own["step"] = step
    batch = ParameterBatch.empty(group, float(group["lr"]), g, before, step, power_of(group))
    if len(set(levels)) > 1 and isinstance(prepared.tables, triton_step.Tables):
        own_levels = prepared.tables.thresholds(levels)
        batch = batch._replace(g=own_levels, g_before=own_levels)
    return batch._replace(prepared=prepared)


def prepare_group(
    state: State, group: Group, batches: list[ParameterBatch]
) -> PreparedGroup | None:
    """Prepare a group's next steps; None unless all its parameters are in one batch."""
    rows = batches[0].rows if len(batches) == 1 else []
    if not rows or len(rows) != len(group["params"]):
        return None
    if not all(map(operator.is_, (row.w for row in rows), group["params"])):
        return None
    if (kind := kind_of_tables(group, rows[0].w)) is None:
        return None
    return PreparedGroup.of(rows, [state[p] for p in group["params"]], kind)


def kind_of_tables(group: Group, w: Tensor) -> type[triton_step.Tables | Arrays] | None:
    """The class of the tables with which the steps of a group can be prepared, or None."""
    if group["capturable"] or (group["plan"] and group["plan"].structure != "elements"):
        return None
    if triton_step.is_chosen(group, w):
        return triton_step.Tables
    return Arrays if may_extend(group) and power_of(group) in POWERS else None


def lr_on(group: Group, device: torch.device) -> Tensor:
    """The learning rate as a 0-dimensional float64 tensor on the device."""
    lr = group["lr"]
    if isinstance(lr, Tensor):
        return lr.to(device, torch.float64)
    # filled on the device, because a copy from the host cannot be captured
    return torch.full((), float(lr), dtype=torch.float64, device=device)


def row_of(p: Tensor, grad: Tensor | None, own: dict[str, Any]) -> Row:
    """A parameter with its gradient and state; for sharded tensors, the shards of this process."""
    m = own.get("momentum_buffer", own.get("exp_avg"))
    row = Row(p, own.get("v"), grad, m, own.get("exp_avg_sq"))
    if not is_sharded(type(p)):
        return row
    # shards are sufficient, because a step is elementwise
    return Row(*(None if t is None else local_part(t) for t in row))


def _place_counters(
    p: Tensor, own: dict[str, Any], plan: Any, places: dict[tuple[Any, ...], dict[str, Tensor]]
) -> None:
    """Move n, g and Adam's step to the device; parameters with equal values share them."""
    values = {name: float(own.get(name, 0)) for name in COUNTERS if name in own}
    values = {"n": 0.0, "g": float(plan.threshold) if plan else 0.0} | values
    numbers = {
        name: torch.full((), value, dtype=torch.float64, device=p.device)
        for name, value in values.items()
    }
    if plan:  # every tensor has its own threshold
        own["g"] = numbers.pop("g")
    key = (*((name, values[name]) for name in numbers), p.device)
    own |= places.setdefault(key, numbers)


def _grown(n: int, g: float, rate: float, c: float, mu: float) -> tuple[int, float]:
    """The counter and the threshold after one more step at a rate."""
    if rate == 0:
        return n, g
    return n + 1, g + threshold_increment(n + 1, rate, c, mu) if c else g
