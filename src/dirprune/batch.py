"""Batches of parameters that one step updates together."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dirprune.kernels.prepared_group import PreparedGroup
from dirprune.kernels.rows import Row

Group = dict[str, Any]


# Elements updated at a time on the CPU, to limit temporary memory. 1 << 20 was not faster.
CHUNK = 1 << 22


class ParameterBatch(NamedTuple):
    """Parameters of one group, dtype and device that share step and rate.

    v is None for all rows or for none, and so are m and s. The scalars are 0-dimensional float64
    tensors: Python numbers would be constants of a compiled step, which would be recompiled
    whenever they change. g and ``g_before`` may be vectors on the device of the weights, with one
    threshold per row.
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
    prepared: PreparedGroup | None = None
    """All rows, if they are stepped with prepared tables; then ``rows`` is empty."""

    @classmethod
    def empty(
        cls, group: Group, lr: float, g: float, g_before: float | None, step: int, power: float
    ) -> "ParameterBatch":
        """Make a batch without parameters."""
        numbers = [lr, g, g_before or 0.0, step]
        scalars = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        rate, level, before, count = scalars.unbind()
        return cls(group, rate, level, None if g_before is None else before, count, power, [])

    def part(self, rows: Sequence[Row], indices: Iterable[int]) -> "ParameterBatch":
        """Make a batch of some rows, which are not prepared."""
        return self._replace(rows=[rows[i] for i in indices], prepared=None)

    def split_by_threshold(self) -> "list[ParameterBatch]":
        """Split a batch with one threshold per row into batches with one threshold each."""
        before = self.g if self.g_before is None else self.g_before
        if self.group["capturable"]:  # nothing may be copied to the host
            return [
                self._replace(g=g, g_before=b, rows=[row])
                for g, b, row in zip(self.g, before, self.rows)
            ]
        parts: dict[tuple[float, float], list[Row]] = {}
        for g, b, row in zip(self.g.tolist(), before.tolist(), self.rows):
            parts.setdefault((g, b), []).append(row)
        numbers = torch.tensor(list(parts), dtype=torch.float64)
        return [
            self._replace(g=g, g_before=b, rows=rows)
            for (g, b), rows in zip(numbers, parts.values())
        ]

    def with_thresholds(self, g: Sequence[float], g_before: Sequence[float]) -> "ParameterBatch":
        """Give every row its own thresholds, unless all are equal."""
        if len(set(g)) == len(set(g_before)) == 1:
            return self
        both = torch.tensor([g, g_before], dtype=torch.float64).to(self.rows[0].w.device)
        return self._replace(g=both[0], g_before=both[1])


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of v: float32 for half precision, where lr * d would be lost in rounding."""
    return torch.float32 if p.dtype in (torch.bfloat16, torch.float16) else p.dtype


def may_extend(group: Group) -> bool:
    """Whether the options allow the C++ extension."""
    return group["fused"] is not False and not group["foreach"]


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
