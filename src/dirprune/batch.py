"""Batches of parameters that one step updates together."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dirprune.kernels.rows import Row
from dirprune.kernels.together import Together

Group = dict[str, Any]


# Elements updated at a time on the CPU, to limit temporary memory. 1 << 20 was not faster.
CHUNK = 1 << 22


class ParameterBatch(NamedTuple):
    """Parameters of one group, dtype and device that share step, rate and threshold.

    v is None for all rows or for none, and so are m and s. The scalars are 0-dimensional float64
    tensors: Python numbers would be constants of a compiled step, which would be recompiled
    whenever they change.
    """

    group: Group
    """The options; only Adam's direction has "betas"."""
    lr: Tensor
    g: Tensor
    g_before: Tensor | None
    """The threshold that gave the current weights; None if v is up to date."""
    step: Tensor
    """Adam's step, counted from 1."""
    power: float
    rows: list[Row]
    together: Together | None = None
    """All rows, if they are stepped with prepared tables; then ``rows`` is empty."""

    @classmethod
    def empty(
        cls, group: Group, lr: float, g: float, g_before: float | None, step: int, power: float
    ) -> "ParameterBatch":
        """Make a batch without parameters."""
        numbers = [lr, g, g_before or 0.0, step]
        scalars = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        before = None if g_before is None else scalars[2]
        return cls(group, scalars[0], scalars[1], before, scalars[3], power, [])


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of v: float32 for half precision, where lr * d would be lost in rounding."""
    return torch.float32 if p.dtype in (torch.bfloat16, torch.float16) else p.dtype


def chunks(rows: Iterable[Row]) -> Iterable[Row]:
    """Split the rows into chunks of about CHUNK elements at most; only on the CPU."""
    for row in rows:
        if row.w.numel() <= CHUNK or not row.w.is_cpu:
            yield row
        else:
            yield from _cut_row(row)


def _cut_row(row: Row) -> Iterable[Row]:
    tensors = [t for t in row if t is not None]
    if all(t.is_contiguous() for t in tensors):
        row, size = Row(*(None if t is None else t.view(-1) for t in row)), CHUNK
    else:
        size = max(1, len(row.w) * CHUNK // row.w.numel())
    for start in range(0, len(row.w), size):
        yield Row(*(None if t is None else t[start : start + size] for t in row))
