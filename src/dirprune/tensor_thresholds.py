"""Thresholds for a total number of zeros in many tensors, with a minimum of nonzeros in each."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dirprune.quantile import (
    count_above,
    flat,
    kth_magnitude,
    largest_magnitudes,
    share_a_gpu,
)

PADDED = 1 << 14
"""Entries of the largest tensor whose magnitudes are sorted as a row of a matrix."""


def tensor_thresholds(
    tensors: Sequence[Tensor], zeros: int, minimum: int, stride: int = 1
) -> tuple[float, list[float], list[int]]:
    """Choose a common threshold that gives ``zeros`` zeros, and smaller ones for some tensors.

    Args:
        tensors: Tensors of one dtype on one device.
        zeros: Number of entries that become zero.
        minimum: Nonzero entries that every tensor keeps (all, if it has fewer), at least 0. Other
            tensors get more zeros, so that the number of zeros is still exact.
        stride: Use only every ``stride``-th entry; then the number of zeros is approximate.

    Returns:
        The common threshold, the threshold of each tensor, and the indices of the tensors that
        become entirely zero.

    Example:
        >>> tensors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])]
        >>> tensor_thresholds(tensors, zeros=2, minimum=0)
        (2.0, [2.0, 2.0], [0])
        >>> g, own, empty = tensor_thresholds(tensors, zeros=2, minimum=1)
        >>> [int((t > g).sum()) for t, g in zip(tensors, own)], empty
        ([1, 2], [])
    """
    sizes = [t.numel() for t in tensors]
    g = kth_magnitude(tensors, max(0, round(zeros / stride)), stride)
    own: dict[int, float] = {}
    empty: list[int] = []
    candidates = list(tensors)
    while zeros:
        kept = count_above(tensors, g).tolist()
        found = [
            i
            for i, (k, size) in enumerate(zip(kept, sizes))
            if k < min(minimum, size) and i not in own
        ]
        if not found:
            empty = [i for i, k in enumerate(kept) if k == 0 < sizes[i] and i not in own]
            break
        _, lower = _own_thresholds([tensors[i] for i in found], minimum)
        above = _infinite_above([tensors[i] for i in found], lower)
        for i, level, candidate in zip(found, lower.tolist(), above):
            own[i], candidates[i] = level, candidate
        protected = sum(min(minimum, sizes[i]) for i in own)
        rank = min(zeros, sum(sizes) - protected)
        g = kth_magnitude(candidates, round(rank / stride), stride)
        if stride > 1 and g.isinf():  # the sample has too many of the entries that are kept
            g = kth_magnitude(candidates, rank)
    levels = [min(float(g), own.get(i, math.inf)) for i in range(len(sizes))]
    return min(float(g), max(levels)), levels, empty  # g is infinite if all entries are kept


def tensor_thresholds_on_device(
    tensors: Sequence[Tensor], zeros: Tensor, minimum: int
) -> tuple[Tensor, list[Tensor]]:
    """Choose as :func:`tensor_thresholds` does, without copying anything to the host.

    Args:
        tensors: Tensors of one dtype on one device.
        zeros: Number of entries that become zero, a 0-dimensional integer.
        minimum: Nonzero entries that every tensor keeps.

    Returns:
        The common threshold and the threshold of each tensor, all 0-dimensional.
    """
    sizes = [t.numel() for t in tensors]
    kept, own = _own_thresholds(tensors, minimum)
    candidates = _infinite_above(tensors, own)
    protected = sum(min(minimum, size) for size in sizes)
    g = kth_magnitude(candidates, zeros.clamp(max=sum(sizes) - protected))
    return g, list(torch.where(g < kept, g, own))


def _infinite_above(tensors: Sequence[Tensor], levels: Tensor) -> list[Tensor]:
    """Replace the entries that every tensor keeps, so that they are not counted."""
    return [torch.where(t.abs() > level, math.inf, t) for t, level in zip(tensors, levels)]


def _own_thresholds(tensors: Sequence[Tensor], minimum: int) -> tuple[Tensor, Tensor]:
    """The smallest of the ``minimum`` largest entries, and a threshold that keeps just these."""
    largest = _largest_magnitudes(tensors, minimum + 1)
    infinite = largest.new_full((len(tensors), 1), math.inf)
    kept, lost = torch.cat([infinite, largest], 1)[:, -2:].unbind(1)
    return kept, torch.where(kept > lost, lost, torch.nextafter(kept, torch.zeros_like(kept)))


def _largest_magnitudes(tensors: Sequence[Tensor], number: int) -> Tensor:
    """Rows of the ``number`` largest magnitudes, in descending order; 0 where there are fewer."""
    if share_a_gpu(tensors) and max(t.numel() for t in tensors) <= PADDED:
        # few launches for many small tensors
        rows = pad_sequence([flat(t) for t in tensors], batch_first=True).abs()
        rows = F.pad(rows, (0, max(0, number - rows.shape[1])))
        return rows.topk(number).values
    return torch.stack([largest_magnitudes(t, number) for t in tensors])
