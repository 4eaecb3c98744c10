"""Thresholds for a total number of zeros in many tensors, with a minimum of nonzeros in each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dirprune.quantile import (
    count_above,
    flat,
    kth_magnitude,
    largest_magnitudes,
    share_a_gpu,
    sizes_on_device,
)

SMALL = 1 << 14
"""Entries of the largest tensors that are taken together on a GPU, to save launches."""


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
    own: dict[int, tuple[float, float]] = {}
    empty: list[int] = []
    protected: list[Tensor] = []
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
        if share_a_gpu(tensors):  # all small tensors together cost less than another round
            small = {i for i, size in enumerate(sizes) if size <= SMALL and i not in own}
            found = sorted(small.union(found))
        chosen = [tensors[i] for i in found]
        smallest, lower = _own_thresholds(chosen, minimum)
        protected += _infinite_above(chosen, lower)
        own.update(zip(found, zip(smallest.tolist(), lower.tolist())))
        candidates = protected + [t for i, t in enumerate(tensors) if i not in own]
        rank = min(zeros, sum(sizes) - sum(min(minimum, sizes[i]) for i in own))
        g = kth_magnitude(candidates, round(rank / stride), stride)
        if stride > 1 and g.isinf():  # the sample has too many of the entries that are kept
            g = kth_magnitude(candidates, rank)
    common = float(g)
    levels = [own[i][1] if i in own and common >= own[i][0] else common for i in range(len(sizes))]
    return min(common, max(levels)), levels, empty  # g is infinite if all entries are kept


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
    if share_a_gpu(tensors):
        sizes = sizes_on_device(tensors)
        joined = torch.cat([flat(t) for t in tensors])
        level = levels.repeat_interleave(sizes, output_size=len(joined))
        return [torch.where(joined.abs() > level, math.inf, joined)]
    return [torch.where(t.abs() > level, math.inf, t) for t, level in zip(tensors, levels)]


def _own_thresholds(tensors: Sequence[Tensor], minimum: int) -> tuple[Tensor, Tensor]:
    """The smallest of the ``minimum`` largest entries, and a threshold that keeps just these."""
    largest = _largest_magnitudes(tensors, minimum + 1)
    infinite = largest.new_full((len(tensors), 1), math.inf)
    place = sizes_on_device(tensors).clamp(max=minimum).unsqueeze(1)
    pairs = torch.cat([infinite, largest], 1).gather(1, torch.cat([place, place + 1], 1))
    kept, lost = pairs.unbind(1)
    return kept, torch.where(kept > lost, lost, torch.nextafter(kept, torch.zeros_like(kept)))


def _largest_magnitudes(tensors: Sequence[Tensor], number: int) -> Tensor:
    """Rows of the ``number`` largest magnitudes, in descending order; 0 where there are fewer."""
    if not share_a_gpu(tensors):
        return torch.stack([largest_magnitudes(t, number) for t in tensors])
    small = [t for t in tensors if t.numel() <= SMALL]
    rows = iter(_padded(small, number).topk(number).values if small else ())
    return torch.stack(
        [next(rows) if t.numel() <= SMALL else largest_magnitudes(t, number) for t in tensors]
    )


def _padded(tensors: Sequence[Tensor], least: int) -> Tensor:
    """Magnitudes as rows of a matrix with at least ``least`` columns, filled up with zeros."""
    sizes = sizes_on_device(tensors)
    width = max(least, *(t.numel() for t in tensors))
    joined = torch.cat([flat(t) for t in tensors]).abs()
    starts = torch.arange(len(tensors), device=joined.device) * width
    shifts = (starts - sizes.cumsum(0) + sizes).repeat_interleave(sizes, output_size=len(joined))
    places = torch.arange(len(joined), device=joined.device) + shifts
    rows = joined.new_zeros(len(tensors) * width).index_copy_(0, places, joined)
    return rows.view(len(tensors), width)
