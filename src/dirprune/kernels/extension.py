"""gRDA's step, its threshold and the search for changes in the C++ extension, on the CPU.

One pass over all tensors of a batch, for float32 arrays and the powers 1 and 2. The bits are
those of the paths in PyTorch. Rows are w, v, gradient, momentum and second moment, as in
``update``; each function returns the rows that it could not take.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from dirprune._support import native
from dirprune.kernels.rows import PLAIN, Gradient, Row, order

Rows = Sequence[Row]

POWERS = frozenset({1.0, 2.0})
"""The powers of the threshold function that the extension has."""

_dtype, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")


def step(rows: Rows, rule: Gradient | None, g: float, power: float) -> list[Row]:
    """Descend along SGD's direction and threshold.

    Args:
        rows: With gradients.
        rule: The direction and its options; None where v stays and no gradients are needed.
        g: Threshold.
        power: p.

    Returns:
        The rows that are still to be stepped.
    """
    call = native.grda_step()
    width = 5 if rule else 2
    fused, rest = _split(rows, width, call, power)
    if call and fused:
        w, v, grad, m, _ = zip(*fused)
        options = rule or Gradient(0.0)
        call(
            list(map(Tensor.data_ptr, w)),
            list(map(Tensor.data_ptr, v)),
            list(map(Tensor.data_ptr, grad)) if rule else [],
            list(map(Tensor.data_ptr, m)) if options.momentum else [],
            list(map(Tensor.numel, w)),
            **arguments(options, g, power),
        )
        increment_version(w)  # so that autograd sees a change that went past torch
    return rest


def arguments(rule: Gradient, g: float, power: float) -> dict[str, Any]:
    """The numbers of a step as arguments of the extension."""
    return {
        "lr": float(rule.lr),
        "g": g,
        "momentum": rule.momentum,
        "decay": rule.weight_decay,
        "nesterov": rule.nesterov,
        "maximize": rule.maximize,
        "root": power == 2,
        "threads": torch.get_num_threads(),
    }


def find_changed(rows: Rows, g: float, power: float, phase: int) -> tuple[list[Row], list[Row]]:
    """Compare weights with the thresholds of v, long arrays on a sample.

    Args:
        rows: Gradients and moments do not matter.
        g: The threshold of the last step.
        power: p.
        phase: Which lines of long arrays.

    Returns:
        The rows that differ, and those that are still to be compared.
    """
    call = native.grda_changed()
    fused, rest = _split(rows, 2, call, power)
    if not call or not fused:
        return [], rest
    w, v, *_ = zip(*fused)
    found = call(
        list(map(Tensor.data_ptr, w)),
        list(map(Tensor.data_ptr, v)),
        list(map(Tensor.numel, w)),
        g=g,
        root=power == 2,
        sample=native.sample(phase),
        threads=1,  # waking another takes longer than the sample
    )
    return [fused[i] for i in found], rest


def are_float32(column: Sequence[Tensor]) -> bool:
    """Whether the tensors are float32 arrays on the CPU that hold their own values."""
    # map over a column: a hundred tensors are asked in a fifth of the time of a loop
    return (
        PLAIN.issuperset(map(type, column))
        and {torch.float32}.issuperset(map(_dtype, column))
        and all(map(_is_cpu, column))
        # the memory of a negative view holds the opposite
        and not any(map(Tensor.is_neg, column))
    )


def is_dense(t: Tensor) -> bool:
    """Whether the elements are neighbours in memory, in the usual order or channels last."""
    return t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)


def _split(rows: Rows, width: int, call: object, power: float) -> tuple[list[Row], list[Row]]:
    """The rows whose first tensors the extension can take, and the others."""
    if not call or power not in POWERS:
        return [], list(rows)
    columns = [column for column in zip(*(row[:width] for row in rows)) if column[0] is not None]
    if all(map(are_float32, columns)) and all(
        all(map(Tensor.is_contiguous, column)) for column in columns
    ):
        return list(rows), []
    parts: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        parts[not _fits([t for t in row[:width] if t is not None])].append(row)
    return parts


def _fits(row: Sequence[Tensor]) -> bool:
    """Whether the tensors of a row are float32 arrays in the same order."""
    w, *others = row
    return are_float32(row) and is_dense(w) and all(order(t) == order(w) for t in others)
