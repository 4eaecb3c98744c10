"""Measuring many points of a landscape, with resumption after an interruption."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dirprune._support.checkpoint import load_checkpoint, save_checkpoint
from dirprune._support.hashing import hash_tensor
from dirprune._support.processes import rank_and_world
from dirprune.landscape.objectives.loss_identity import loss_identity
from dirprune.landscape.objectives.objective import Objective
from dirprune.landscape.objectives.points import Point
from dirprune.landscape.objectives.policy import BatchNormStatistics

VERSION = 2
"""Format version of saved work; version 1, of dirprune 0.1, weighted batches by samples."""

SAVE_EVERY = 30.0
"""Seconds between two saves; an interruption saves as well."""

ReportProgress = Callable[[int, int], None]
"""Called with the number of units of work done and their total; may raise to interrupt."""


class SweepPoint(NamedTuple):
    """A point to measure.

    Attributes:
        w: Weights with shape (d,).
        shares: Share of each known point; see :class:`BatchNormStatistics`.
    """

    w: Tensor
    shares: Sequence[float]


class Measurements(NamedTuple):
    """Losses and errors of many points on one data set.

    Attributes:
        loss: float64 with shape (P,); it may be infinite or NaN.
        error: float64 with shape (P,), or None if the targets are not classes.
    """

    loss: Tensor
    error: Tensor | None


def sweep(
    count: int,
    place: Callable[[int], SweepPoint],
    objectives: Mapping[str, Objective],
    statistics: BatchNormStatistics,
    *,
    key: Sequence[Any],
    save: Path | None = None,
    progress: ReportProgress | None = None,
) -> dict[str, Measurements]:
    """Measure points on several data sets; resume an interrupted call with the same key.

    In a process group (``torchrun``) every process takes its share of the points.

    Args:
        count: Number of points, P.
        place: Returns the k-th point.
        objectives: Objectives by the names of their data; they share one model.
        statistics: Loads a point into that model.
        key: Identifies the points, given the same known points; JSON.
        save: A file for the measurements of an interrupted call.
        progress: Called after every point with the number of points done and their total.

    Returns:
        The measurements on every data set.

    Raises:
        ValueError: If the file belongs to other work.
    """
    rank, world = rank_and_world()
    # Per point: whether it is measured, then loss and error on every data set.
    figures = torch.zeros(count, 1 + 2 * len(objectives), dtype=torch.float64)
    about = [
        key,
        statistics.policy,
        *((f.data.digest, loss_identity(f.loss)) for f in objectives.values()),
    ]
    work = {"key": digest(*statistics.known, json.dumps(about)), "data": list(objectives)}
    if save is not None and save.exists():
        tensors, meta = resumed(save, work)
        figures = tensors["figures"]
        if meta.get("version", 1) == 1 and not all(f.weighs_samples for f in objectives.values()):
            raise ValueError(
                f"{save} was written by dirprune 0.1, which averaged this loss over batches by "
                "their number of samples: delete it to measure again"
            )
    left = [k for k in range(count) if not figures[k, 0]]
    saved = time.monotonic()
    try:
        for start in range(0, len(left), world):
            group = left[start : start + world]
            found = torch.zeros(len(group), figures.shape[1], dtype=torch.float64)
            if rank < len(group):
                found[rank] = _measure(place(group[rank]), objectives, statistics)
            if world > 1:
                dist.all_reduce(found)  # the others' rows are 0
            figures[group] = found
            if save and rank == 0 and time.monotonic() - saved > SAVE_EVERY:
                save_work(save, {"figures": figures}, work)
                saved = time.monotonic()
            if progress is not None:
                progress(count - len(left) + start + len(group), count)
    finally:
        if save and rank == 0 and left:
            save_work(save, {"figures": figures}, work)
    losses, errors = figures[:, 1::2].unbind(1), figures[:, 2::2].unbind(1)
    return {
        name: Measurements(loss, None if bool((error < 0).any()) else error)
        for name, loss, error in zip(objectives, losses, errors)
    }


def digest(*parts: str | Tensor | Point) -> str:
    """Return a hexadecimal SHA-256 of the values of texts, tensors and points."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            hashed.update(part.encode())
        elif isinstance(part, Tensor):
            hash_tensor(hashed, part)
        else:
            hashed.update(digest(part.w, *part.rest.values()).encode())
    return hashed.hexdigest()


def save_work(path: Path, tensors: Mapping[str, Tensor], work: Mapping[str, Any]) -> None:
    """Save unfinished work with its format version."""
    save_checkpoint(path, tensors, {**work, "version": VERSION})


def resumed(path: Path, work: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_work` wrote, whose metadata must agree with ``work``.

    Raises:
        ValueError: If it belongs to other work, has a later version, or is damaged.
    """
    tensors, meta = load_checkpoint(path)
    if (version := meta.get("version", 1)) > VERSION:
        raise ValueError(
            f"{path} has version {version} of unfinished work, this dirprune reads up to "
            f"{VERSION}: resume with the dirprune that wrote it, or delete it to start again"
        )
    if any(meta.get(name) != value for name, value in work.items()):
        raise ValueError(
            f"{path} belongs to other networks, data or options: choose another file, or delete it"
        )
    return tensors, meta


def _measure(
    place: SweepPoint, objectives: Mapping[str, Objective], statistics: BatchNormStatistics
) -> Tensor:
    statistics.load(place.w, place.shares)
    found = [1.0]
    for objective in objectives.values():
        loss, error = objective.measure()
        found += [loss, -1.0 if error is None else error]
    return torch.tensor(found, dtype=torch.float64)
