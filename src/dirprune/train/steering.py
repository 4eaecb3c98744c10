"""Forecasts inside a run, and the one correction of c by which it meets its target."""

import math
from typing import Any

from dirprune.grda import GRDA
from dirprune.train.config import TrainConfig
from dirprune.train.forecast import c_for_sparsity, forecast_sparsity, magnitudes
from dirprune.train.session import Progress, Session
from dirprune.train.sizes import parse_size, sparsity_for_size

CORRECT_AT = 1 / 3
"""Share of the epochs after which c is corrected: earlier it is not yet foreseeable how far the
accumulators will move, later less of the threshold's path is left. See results/forecast."""

FIRST_PACE = 1 / 3
"""Movement of accumulators per unit of g that the start counts on, with nothing measured yet."""


def target_of(config: TrainConfig, total: int) -> float | None:
    """Return the share of zeros that a run is to end with, or None if it has no target.

    Args:
        config: Of the run.
        total: Number of trainable parameters.

    Raises:
        ValueError: If no sparsity leads to ``config.target_size``.

    Example:
        >>> target_of(TrainConfig(target_size="481B"), total=1000)
        0.9...
    """
    if config.target_size is not None:
        return sparsity_for_size(parse_size(config.target_size), total)
    return config.target_sparsity


def start_steering(session: Session, progress: Progress) -> None:
    """Before the first step, find a c to begin with and note where the accumulators start.

    Args:
        session: Of a run that has not begun; given a target, and unless ``config.forecast`` is
            on, its optimizer begins with the c that :data:`FIRST_PACE` and the initial weights
            suggest, so that the correction is small.
        progress: Is given the first of its past moments.

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
        if not config.forecast and c > 0:
            _set_c(optimizer, c)
    progress.past.append(magnitudes(optimizer))


def steer(session: Session, progress: Progress) -> dict[str, Any] | None:
    """At the end of an early epoch forecast the run's end and, at the last of them, correct c.

    Args:
        session: Its optimizer's c is set, once in a run, if there is a target and
            ``config.forecast`` is off.
        progress: Remembers what the next forecasts need, and the correction.

    Returns:
        ``sparsity``, that is foretold with the c that was in force; ``target``; and ``c``, that
        the target needs for the rest of the run (None if none does; without a target that in
        force). None in all other epochs.

    Raises:
        ValueError: If c is to be corrected and the target can no longer be reached.
    """
    config, optimizer = session.config, session.optimizer
    epoch = progress.step // session.steps_per_epoch
    last = math.ceil(config.epochs * CORRECT_AT)
    if not progress.past or epoch > last or not isinstance(optimizer, GRDA):
        return None
    # The pace of the last quarter so far: younger is noisier, older is no longer true.
    past = progress.past[epoch * 3 // 4]
    progress.past.append(magnitudes(optimizer))
    future, target = session.lrs[progress.step :], target_of(config, _total(session))
    foretold = forecast_sparsity(optimizer, future, past)
    c: float | None = _thresholded(optimizer)[0]["c"]
    if target is not None:
        steering = epoch == last and not config.forecast
        try:
            c = c_for_sparsity(optimizer, future, target, past)
        except ValueError:
            if steering:
                raise
            c = None
        if steering:
            before = _thresholded(optimizer)[0]["c"]
            progress.correction = {"step": progress.step, "before": before, "c": c}
            _set_c(optimizer, c)
    return {"sparsity": foretold, "c": c, "target": target}


def _set_c(optimizer: GRDA, c: float | None) -> None:
    for group in _thresholded(optimizer):
        group["c"] = c


def _thresholded(optimizer: GRDA) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group["c"] > 0]


def _total(session: Session) -> int:
    return sum(p.numel() for p in session.net.parameters() if p.requires_grad)
