"""Thresholds for a total number of zeros in many tensors, with a minimum of nonzeros in each."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dirprune.quantile import (
    count_above,
    flat,
    is_sharded,
    kth_magnitude,
    kth_magnitude_near,
    kth_magnitude_of_vector,
    largest_magnitudes,
)

SMALL = 1 << 14
"""Entries of the largest tensors that are protected together on a GPU, to save launches."""


def tensor_thresholds(
    tensors: Sequence[Tensor], zeros: int, minimum: int, stride: int = 1, near: float = 0.0
) -> tuple[float, list[float], list[int]]:
    """Choose a common threshold that gives ``zeros`` zeros, and smaller ones for some tensors.

    Args:
        tensors: Tensors of one dtype on one device.
        zeros: Number of entries that become zero.
        minimum: Nonzero entries that every tensor keeps (all, if it has fewer), at least 0. Other
            tensors get more zeros, so that the number of zeros is still exact.
        stride: Use only every ``stride``-th entry; then the number of zeros is approximate.
        near: A guess of the common threshold, which makes it faster for many entries; 0 for none.

    Returns:
        The common threshold, the threshold of each tensor, and the indices of the tensors that
        become entirely zero. If too few entries are finite, the threshold is infinite or NaN.

    Example:
        >>> tensors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])]
        >>> tensor_thresholds(tensors, zeros=2, minimum=0)
        (2.0, [2.0, 2.0], [0])
        >>> g, own, empty = tensor_thresholds(tensors, zeros=2, minimum=1)
        >>> [int((t > g).sum()) for t, g in zip(tensors, own)], empty
        ([1, 2], [])
    """
    sizes = [t.numel() for t in tensors]
    minimum = min(minimum, max(sizes))
    entries = _Joined(tensors) if _share_a_gpu(tensors) else _Separate(tensors, near)
    g = entries.kth(max(0, round(zeros / stride)), stride)
    own: dict[int, tuple[float, float]] = {}
    protected = 0
    empty: list[int] = []
    while zeros and math.isfinite(float(g)):
        kept = entries.count_above(g)
        found = [
            i
            for i, (k, size) in enumerate(zip(kept, sizes))
            if k < min(minimum, size) and i not in own
        ]
        if not found:
            empty = [i for i, k in enumerate(kept) if k == 0 < sizes[i] and i not in own]
            break
        indices, smallest, lower, number = entries.protect(found, minimum)
        own.update(zip(indices, zip(smallest.tolist(), lower.tolist())))
        protected += int(number)
        rank = min(zeros, sum(sizes) - protected)
        g = entries.kth(round(rank / stride), stride)
        if stride > 1 and g.isinf():  # the sample has too many of the entries that are kept
            g = entries.kth(rank)
    common = float(g)
    levels = [own[i][1] if i in own and common >= own[i][0] else common for i in range(len(sizes))]
    return common, levels, empty


def tensor_thresholds_on_device(
    tensors: Sequence[Tensor], zeros: Tensor, minimum: int
) -> tuple[Tensor, list[Tensor]]:
    """Choose as :func:`tensor_thresholds` does, without copying anything to or from the host.

    Args:
        tensors: Tensors of one dtype on one device.
        zeros: Number of entries that become zero, a 0-dimensional integer.
        minimum: Nonzero entries that every tensor keeps.

    Returns:
        The common threshold and the threshold of each tensor, all 0-dimensional. If too few
        entries are finite, they are infinite or NaN.
    """
    sizes = [t.numel() for t in tensors]
    entries = _Separate(tensors)
    _, smallest, lower, number = entries.protect(range(len(tensors)), min(minimum, max(sizes)))
    g = entries.kth(torch.minimum(zeros, sum(sizes) - number))
    if minimum:  # infinite entries are protected
        g = torch.where(smallest.isfinite().any(), g, math.inf)
    return g, list(torch.where((g < smallest) | ~g.isfinite(), g, lower))


class _Protected(NamedTuple):
    """Tensors whose largest entries were set to infinity.

    Attributes:
        indices: The tensors.
        smallest: The smallest of the magnitudes that each keeps.
        lower: A threshold for each that keeps just these.
        number: Number of entries that were set.
    """

    indices: Sequence[int]
    smallest: Tensor
    lower: Tensor
    number: Tensor


class _Separate:
    """The entries of tensors anywhere, also of DTensors."""

    def __init__(self, tensors: Sequence[Tensor], near: float = 0.0) -> None:
        self._tensors, self._near = list(tensors), near
        self._together = _share_a_gpu(tensors)

    def kth(self, k: int | Tensor, stride: int = 1) -> Tensor:
        """The k-th smallest magnitude; entries that are protected count as infinite."""
        if self._together:  # one tensor takes a fraction of the launches of many
            return kth_magnitude([torch.cat([flat(t) for t in self._tensors])], k, stride)
        if self._near and stride == 1 and isinstance(k, int):
            return kth_magnitude_near(self._tensors, k, self._near)
        return kth_magnitude(self._tensors, k, stride)

    def count_above(self, g: Tensor) -> list[int]:
        """Count the magnitudes of each tensor that are above ``g``."""
        counts: list[int] = count_above(self._tensors, g).tolist()
        return counts

    def protect(self, indices: Sequence[int], minimum: int) -> _Protected:
        """Set the ``minimum`` largest entries of these tensors to infinity, except zeros."""
        chosen = [self._tensors[i] for i in indices]
        largest = torch.stack([largest_magnitudes(t, minimum + 1) for t in chosen])
        smallest, lower = _smallest_and_lower(largest, [t.numel() for t in chosen], minimum)
        number = count_above(chosen, lower).sum()
        for i, t, level in zip(indices, chosen, lower):
            self._tensors[i] = torch.where(t.abs() > level, math.inf, t)
        return _Protected(indices, smallest, lower, number)


class _Joined:
    """The magnitudes of ordinary tensors on one GPU as one vector, small tensors first.

    It takes a fraction of the launches that separate tensors take, but copies from the host.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._order = sorted(range(len(tensors)), key=lambda i: tensors[i].numel())
        self._place = {i: place for place, i in enumerate(self._order)}
        self._sizes = [tensors[i].numel() for i in self._order]
        self._small = sum(size <= SMALL for size in self._sizes)
        self._vector = torch.cat([flat(tensors[i]) for i in self._order]).abs()
        self._on_device = torch.tensor(self._sizes, device=self._vector.device)

    def kth(self, k: int, stride: int = 1) -> Tensor:
        """The k-th smallest magnitude; entries that are protected count as infinite."""
        return kth_magnitude_of_vector(self._vector[::stride], k)

    def count_above(self, g: Tensor) -> list[int]:
        """Count the magnitudes of each tensor that are above ``g``."""
        running = (self._vector > g).cumsum(0)
        ends = self._on_device.cumsum(0)
        totals = torch.cat([running.new_zeros(1), running]).index_select(0, ends).tolist()
        counts = [total - before for total, before in zip(totals, [0, *totals])]
        return [counts[self._place[i]] for i in range(len(counts))]

    def protect(self, indices: Sequence[int], minimum: int) -> _Protected:
        """Protect tensors like :meth:`_Separate.protect`; with one small tensor, all of them."""
        chosen = {self._place[i] for i in indices}
        large = sorted(place for place in chosen if place >= self._small)
        small = range(self._small if len(large) < len(chosen) else 0)
        parts = torch.split(self._vector, self._sizes)
        largest = [largest_magnitudes(parts[place], minimum + 1) for place in large]
        if small:
            largest = [*self._small_rows(minimum + 1).topk(minimum + 1).values, *largest]
        places = [*small, *large]
        smallest, lower = _smallest_and_lower(
            torch.stack(largest), [self._sizes[place] for place in places], minimum
        )
        before = self._vector.isinf().sum()
        if small:
            begin, sizes = self._small_part()
            level = lower[: len(small)].repeat_interleave(sizes, output_size=len(begin))
            begin.masked_fill_(begin > level, math.inf)
        for place, level in zip(large, lower[len(small) :]):
            parts[place].masked_fill_(parts[place] > level, math.inf)
        number = self._vector.isinf().sum() - before
        return _Protected([self._order[place] for place in places], smallest, lower, number)

    def _small_part(self) -> tuple[Tensor, Tensor]:
        """The magnitudes of the small tensors, and their sizes."""
        return self._vector[: sum(self._sizes[: self._small])], self._on_device[: self._small]

    def _small_rows(self, least: int) -> Tensor:
        """Small tensors as rows of a matrix with at least ``least`` columns, zeros at the ends."""
        begin, sizes = self._small_part()
        width = max(least, self._sizes[self._small - 1])
        starts = torch.arange(self._small, device=begin.device) * width - sizes.cumsum(0) + sizes
        places = torch.arange(len(begin), device=begin.device)
        places += starts.repeat_interleave(sizes, output_size=len(begin))
        rows = begin.new_zeros(self._small * width).index_copy_(0, places, begin)
        return rows.view(self._small, width)


def _share_a_gpu(tensors: Sequence[Tensor]) -> bool:
    """Whether these are ordinary tensors of one dtype on one GPU."""
    first = tensors[0]
    return first.is_cuda and all(
        not is_sharded(type(t)) and t.device == first.device and t.dtype == first.dtype
        for t in tensors
    )


def _smallest_and_lower(
    largest: Tensor, sizes: Sequence[int], minimum: int
) -> tuple[Tensor, Tensor]:
    """The smallest of the entries that are kept, and a threshold that keeps just these.

    Args:
        largest: Rows of the ``minimum + 1`` largest magnitudes, descending, zeros at their ends.
        sizes: Number of entries of every tensor.
        minimum: Entries that every tensor keeps; all, if it has fewer.
    """
    infinite = largest.new_full((len(largest), 1), math.inf)
    columns = torch.cat([infinite, largest], 1)
    kept, lost = columns[:, minimum].clone(), columns[:, minimum + 1]
    for i, size in enumerate(sizes):
        if size < minimum:
            kept[i] = columns[i, size]
    return kept, torch.where(kept > lost, lost, torch.nextafter(kept, torch.zeros_like(kept)))
