"""Thresholds for a total number of zeros in many tensors, with a minimum of nonzeros in each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dirprune.quantile import count_above, kth_magnitude, largest_magnitudes, local_part


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
    if stride > 1:
        g = kth_magnitude(tensors, max(0, round(zeros / stride)), stride)
    else:
        g = kth_magnitude(tensors, zeros)
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
        levels = torch.stack([_own_threshold(tensors[i], minimum)[1] for i in found])
        for i, level in zip(found, levels.tolist()):
            own[i] = level
            # entries that a tensor keeps are not counted
            candidates[i] = torch.where(candidates[i].abs() > level, math.inf, candidates[i])
        protected = sum(min(minimum, sizes[i]) for i in own)
        g = kth_magnitude(candidates, min(zeros, sum(sizes) - protected))
    return float(g), [min(float(g), own.get(i, math.inf)) for i in range(len(sizes))], empty


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
    kept, own = zip(*(_own_threshold(t, minimum) for t in tensors))
    # entries that a tensor keeps are not counted
    candidates = [torch.where(t.abs() > o, math.inf, t) for t, o in zip(tensors, own)]
    protected = sum(min(minimum, size) for size in sizes)
    g = kth_magnitude(candidates, zeros.clamp(max=sum(sizes) - protected))
    return g, [torch.where(g < k, g, o) for k, o in zip(kept, own)]


def _own_threshold(v: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """The smallest of the ``minimum`` largest entries, and a threshold that keeps just these."""
    nothing = local_part(v).new_zeros(())
    if v.numel() <= minimum:
        return nothing, nothing
    infinite = local_part(v).new_full((1,), math.inf)
    kept, lost = torch.cat([infinite, largest_magnitudes(v, minimum + 1)])[-2:]
    return kept, torch.where(kept > lost, lost, torch.nextafter(kept, nothing))
