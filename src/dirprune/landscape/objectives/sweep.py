"""Measuring many points of a landscape, one by one, so that none is measured twice."""

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
from dirprune._support.processes import rank_and_world
from dirprune.landscape.objectives.objective import Objective
from dirprune.landscape.objectives.points import Point
from dirprune.landscape.objectives.policy import Statistics

SAVE_EVERY = 30.0
"""Seconds between two saves; what is measured is saved as well when the work is broken off."""

Progress = Callable[[int, int], None]
"""Told after every unit of work how many are done, of how many; may raise to break off."""


class Place(NamedTuple):
    """A point to measure.

    Attributes:
        w: Weights with shape (d,).
        shares: How much of each known point is in them; see :class:`Statistics`.
    """

    w: Tensor
    shares: Sequence[float]


class Measurements(NamedTuple):
    """Losses and errors of many points on one data set.

    Attributes:
        loss: float64 with shape (P,); infinite or NaN where the network is.
        error: The same, or None where targets are no classes.
    """

    loss: Tensor
    error: Tensor | None


def sweep(
    count: int,
    place: Callable[[int], Place],
    objectives: Mapping[str, Objective],
    statistics: Statistics,
    *,
    key: Sequence[Any],
    save: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Measurements]:
    """Measure points on several data sets, where an earlier call with the same key left off.

    In a process group (``torchrun``) every process takes its share of the points.

    Args:
        count: Number of points, P.
        place: The k-th of them.
        objectives: By the names of their data; they share one model.
        statistics: Loads a point into that model.
        key: Tells the places from others, between the same known points; JSON.
        save: A file for what has been measured so far.
        progress: Is told after every point.

    Returns:
        The measurements on every data set.

    Raises:
        ValueError: If the file holds the measurements of other work.
    """
    rank, world = rank_and_world()
    # Per point: whether it is measured, then loss and error on every data set.
    figures = torch.zeros(count, 1 + 2 * len(objectives), dtype=torch.float64)
    about = [
        key,
        statistics.policy,
        *((f.data.digest, _name(f.loss)) for f in objectives.values()),
    ]
    work = {"key": digest(*statistics.known, json.dumps(about)), "data": list(objectives)}
    if save is not None and save.exists():
        figures = resumed(save, work)[0]["figures"]
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
                save_checkpoint(save, {"figures": figures}, work)
                saved = time.monotonic()
            if progress is not None:
                progress(count - len(left) + start + len(group), count)
    finally:
        if save and rank == 0 and left:
            save_checkpoint(save, {"figures": figures}, work)
    losses, errors = figures[:, 1::2].unbind(1), figures[:, 2::2].unbind(1)
    return {
        name: Measurements(loss, None if bool((error < 0).any()) else error)
        for name, loss, error in zip(objectives, losses, errors)
    }


def digest(*parts: str | Tensor | Point) -> str:
    """Tell texts, tensors and points from others: hexadecimal SHA-256 of their values."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            hashed.update(part.encode())
        elif isinstance(part, Tensor):
            hashed.update(f"{part.dtype} {tuple(part.shape)}".encode())
            hashed.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            hashed.update(digest(part.w, *part.rest.values()).encode())
    return hashed.hexdigest()


def resumed(path: Path, work: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back interrupted work.

    Args:
        path: A file of :func:`dirprune._support.checkpoint.save_checkpoint`.
        work: What its metadata have to say.

    Returns:
        Tensors and metadata.

    Raises:
        ValueError: If it is of other work, or damaged.
    """
    tensors, meta = load_checkpoint(path)
    if any(meta.get(name) != value for name, value in work.items()):
        raise ValueError(
            f"{path} is of other networks, data or options: choose another file, or delete it"
        )
    return tensors, meta


def _measure(place: Place, objectives: Mapping[str, Objective], statistics: Statistics) -> Tensor:
    statistics.load(place.w, place.shares)
    found = [1.0]
    for objective in objectives.values():
        loss, error = objective.measure()
        found += [loss, -1.0 if error is None else error]
    return torch.tensor(found, dtype=torch.float64)


def _name(loss: Any) -> str:
    """A loss's name, the same in every process."""
    return str(getattr(loss, "__qualname__", type(loss).__qualname__))
