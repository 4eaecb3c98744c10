"""Forecasts inside a run, and the corrections of c by which it meets its target."""

import math
from typing import Any

from dirprune.grda import GRDA
from dirprune.train.config import TrainConfig
from dirprune.train.forecast import c_for_sparsity, forecast_sparsity, magnitudes
from dirprune.train.session import Progress, Session
from dirprune.train.sizes import parse_size, sparsity_for_size

STEER_FROM, STEER_UNTIL = 1 / 6, 3 / 4
"""Shares of the epochs between which c is set anew after each: earlier it is not foreseeable how
far the accumulators will move, later there is little left to set. See results/forecast."""

SLOWEST = 1e-3
"""Least c, over the first: at 0 a group would count as one that is never thresholded."""

FIRST_PACE = 1 / 3
"""Movement of accumulators per unit of g that the start counts on, with nothing measured yet."""


def target_of(config: TrainConfig, total: int) -> float | None:
    """Return the share of zeros that a run is to end with, or None if it has no target.

    Args:
        config: Of the run.
        total: Number of trainable parameters.

    Raises:
        ValueError: If no sparsity leads to ``config.target_size``, or ``config.target_sparsity``
            leaves no weight.

    Example:
        >>> target_of(TrainConfig(target_size="481B"), total=1000)
        0.9...
    """
    if config.target_size is not None:
        return sparsity_for_size(parse_size(config.target_size), total)
    target = config.target_sparsity
    if target is not None and (1 - target) * total < 1:
        raise ValueError(
            f"a target_sparsity of {target} leaves none of {total:,} parameters: give less than "
            f"{1 - 1 / total:.9g}"
        )
    return target


def start_steering(session: Session, progress: Progress) -> None:
    """Before the first step, find a c to begin with and note where the accumulators start.

    Args:
        session: Of a run that has not begun; given a target, and unless ``config.forecast`` is
            on, its optimizer begins with the c that :data:`FIRST_PACE` and the initial weights
            suggest, so that the corrections are small.
        progress: Is given the first of its past moments, and the first c.

    Raises:
        ValueError: If the method has no threshold, or the target cannot be reached with any c.
    """
    config, optimizer = session.config, session.optimizer
    target = target_of(config, _total(session))
    if target is None and not config.forecast:
        return
    if not isinstance(optimizer, GRDA):
        raise ValueError(
            f"{config.method} has no threshold to forecast: give method grda, or leave out "
            "target_sparsity, target_size and forecast"
        )
    if target is not None:
        c = c_for_sparsity(optimizer, session.lrs, target) / (1 - FIRST_PACE)
        if not config.forecast:
            c = c or config.c
            _set_c(optimizer, c)
            progress.scales.append({"step": 0, "c": c})
    progress.past.append(magnitudes(optimizer))


def steer(session: Session, progress: Progress) -> dict[str, Any] | None:
    """At the end of an epoch forecast the run's end and, if there is a target, set c.

    Args:
        session: Its optimizer's c is set if there is a target and ``config.forecast`` is off.
        progress: Remembers what the next forecasts need, and every c.

    Returns:
        ``sparsity``, that is foretold with the c that was in force; ``target``; and ``c``, that
        the target needs for the rest of the run (None if none does; without a target that in
        force). None once it is too late to set anything.
    """
    config, optimizer = session.config, session.optimizer
    epoch = progress.step // session.steps_per_epoch
    last = int(config.epochs * STEER_UNTIL)
    if not progress.past or epoch > last or not isinstance(optimizer, GRDA):
        return None
    # The pace of the last quarter so far: younger is noisier, older is no longer true.
    past = progress.past[epoch * 3 // 4]
    progress.past.append(magnitudes(optimizer))
    future, target = session.lrs[progress.step :], target_of(config, _total(session))
    foretold = forecast_sparsity(optimizer, future, past)
    before: float = _thresholded(optimizer)[0]["c"]
    if target is None:
        return {"sparsity": foretold, "c": before, "target": None}
    needed: float | None
    try:
        needed = c_for_sparsity(optimizer, future, target, past)
    except ValueError:
        needed = None
    if epoch >= math.ceil(config.epochs * STEER_FROM) and not config.forecast:
        c = needed
        if c is None:  # more zeros than wanted, or fewer than any c can bring
            c = 0.0 if foretold > target else before
        c = max(c, SLOWEST * progress.scales[0]["c"])
        progress.scales.append({"step": progress.step, "c": c})
        _set_c(optimizer, c)
    return {"sparsity": foretold, "c": needed, "target": target}


def _set_c(optimizer: GRDA, c: float) -> None:
    for group in _thresholded(optimizer):
        group["c"] = c


def _thresholded(optimizer: GRDA) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group["c"] > 0]


def _total(session: Session) -> int:
    return sum(p.numel() for p in session.net.parameters() if p.requires_grad)
