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
from dirprune.kernels.rows import PLAIN, Gradient, Row

Rows = Sequence[Row]

_dtype, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")


def step(
    rows: Rows, rule: Gradient | None, g: float, power: float, contiguous: bool = False
) -> list[Row]:
    """Descend along SGD's direction and threshold.

    Args:
        rows: With gradients.
        rule: The direction and its options; None where v stays and no gradients are needed.
        g: Threshold.
        power: p.
        contiguous: Whether weights and accumulators are known to be contiguous float32 arrays.

    Returns:
        The rows that are still to be stepped.
    """
    call = native.grda_step()
    width = 5 if rule else 2
    fused, rest, _ = _split(rows, width, call, power, 2 if contiguous else 0)
    if call and fused:
        w, v, grad, m, _ = zip(*fused)
        options = rule or Gradient(0.0)
        call(
            list(map(Tensor.data_ptr, w)),
            list(map(Tensor.data_ptr, v)),
            list(map(Tensor.data_ptr, grad)) if rule else [],
            list(map(Tensor.data_ptr, m)) if options.momentum else [],
            list(map(Tensor.numel, w)),
            lr=float(options.lr),
            g=g,
            momentum=options.momentum,
            decay=options.weight_decay,
            nesterov=options.nesterov,
            maximize=options.maximize,
            root=power == 2,
            threads=torch.get_num_threads(),
        )
        increment_version(w)  # so that autograd sees a change that went past torch
    return rest


def find_changed(
    rows: Rows, g: float, power: float, phase: int
) -> tuple[list[Row], list[Row], bool]:
    """Compare weights with the thresholds of v, long arrays on a sample.

    Args:
        rows: Gradients and moments do not matter.
        g: The threshold of the last step.
        power: p.
        phase: Which lines of long arrays.

    Returns:
        The rows that differ, those that are still to be compared, and whether all weights and
        accumulators are contiguous float32 arrays.
    """
    call = native.grda_changed()
    fused, rest, contiguous = _split(rows, 2, call, power)
    if not call or not fused:
        return [], rest, False
    w, v, *_ = zip(*fused)
    found = call(
        list(map(Tensor.data_ptr, w)),
        list(map(Tensor.data_ptr, v)),
        list(map(Tensor.numel, w)),
        g=g,
        root=power == 2,
        phase=phase,
        threads=1,  # waking another takes longer than the sample
    )
    return [fused[i] for i in found], rest, contiguous


def _split(
    rows: Rows, width: int, call: object, power: float, checked: int = 0
) -> tuple[list[Row], list[Row], bool]:
    """The rows whose first tensors the extension can take, the others, and if all are contiguous.

    The first ``checked`` columns are known to be contiguous arrays.
    """
    if not call or power not in (1, 2):
        return [], list(rows), False
    if _are_arrays([row[checked:width] for row in rows], contiguous=True):
        return list(rows), [], True
    parts: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        parts[not _are_arrays([row[:width]])].append(row)
    return *parts, False


def _are_arrays(rows: Sequence[Any], contiguous: bool = False) -> bool:
    """Whether rows are float32 arrays on the CPU, the elements of each row in the same order."""
    columns = [column for column in zip(*rows) if column[0] is not None]
    # map over columns: a hundred tensors are asked in a fifth of the time of a loop
    return (
        all(PLAIN.issuperset(map(type, column)) for column in columns)
        and all({torch.float32}.issuperset(map(_dtype, column)) for column in columns)
        and all(all(map(_is_cpu, column)) for column in columns)
        # the memory of a negative view holds the opposite
        and not any(any(map(Tensor.is_neg, column)) for column in columns)
        and (
            all(all(map(Tensor.is_contiguous, column)) for column in columns)
            or (not contiguous and all(_is_channels_last(*column) for column in columns))
        )
    )


def _is_channels_last(t: Tensor) -> bool:
    return t.is_contiguous(memory_format=torch.channels_last)
