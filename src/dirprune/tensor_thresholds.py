"""Thresholds for a total number of zeros in many tensors, with a minimum of nonzeros in each."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from dirprune.quantile import (
    count_above,
    flat,
    is_sharded,
    kth_magnitude,
    kth_magnitude_of_vector,
    largest_magnitudes,
)

SMALL = 1 << 14
"""Entries of the largest tensors that are protected together on a GPU, to save launches."""


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
    entries = _entries(tensors)
    g = entries.kth(max(0, round(zeros / stride)), stride)
    own: dict[int, tuple[float, float]] = {}
    empty: list[int] = []
    while zeros:
        kept = entries.count_above(g)
        found = [
            i
            for i, (k, size) in enumerate(zip(kept, sizes))
            if k < min(minimum, size) and i not in own
        ]
        if not found:
            empty = [i for i, k in enumerate(kept) if k == 0 < sizes[i] and i not in own]
            break
        indices, smallest, lower = entries.protect(found, minimum)
        own.update(zip(indices, zip(smallest.tolist(), lower.tolist())))
        rank = min(zeros, sum(sizes) - sum(min(minimum, sizes[i]) for i in own))
        g = entries.kth(round(rank / stride), stride)
        if stride > 1 and g.isinf():  # the sample has too many of the entries that are kept
            g = entries.kth(rank)
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
    entries = _entries(tensors)
    indices, smallest, lower = entries.protect(range(len(tensors)), minimum)
    protected = sum(min(minimum, size) for size in sizes)
    g = entries.kth(zeros.clamp(max=sum(sizes) - protected))
    levels = dict(zip(indices, torch.where(g < smallest, g, lower)))
    return g, [levels[i] for i in range(len(tensors))]


class _Separate:
    """The entries of tensors anywhere, also of DTensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)

    def kth(self, k: int | Tensor, stride: int = 1) -> Tensor:
        """The k-th smallest magnitude; entries that are protected count as infinite."""
        return kth_magnitude(self._tensors, k, stride)

    def count_above(self, g: Tensor) -> list[int]:
        """Count the magnitudes of each tensor that are above ``g``."""
        counts: list[int] = count_above(self._tensors, g).tolist()
        return counts

    def protect(
        self, indices: Sequence[int], minimum: int
    ) -> tuple[Sequence[int], Tensor, Tensor]:
        """Set the ``minimum`` largest entries of at least these tensors to infinity.

        Returns:
            The tensors whose entries are protected, the smallest protected magnitude of each, and
            a threshold that keeps just its protected entries.
        """
        chosen = [self._tensors[i] for i in indices]
        largest = torch.stack([largest_magnitudes(t, minimum + 1) for t in chosen])
        smallest, lower = _smallest_and_lower(largest, [t.numel() for t in chosen], minimum)
        for i, t, level in zip(indices, chosen, lower):
            self._tensors[i] = torch.where(t.abs() > level, math.inf, t)
        return indices, smallest, lower


class _Joined:
    """The entries of ordinary tensors on one GPU as one vector, small tensors first.

    This takes a fraction of the launches that separate tensors take.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._order = sorted(range(len(tensors)), key=lambda i: tensors[i].numel())
        self._place = {i: place for place, i in enumerate(self._order)}
        self._sizes = [tensors[i].numel() for i in self._order]
        self._small = sum(size <= SMALL for size in self._sizes)
        self._vector = torch.cat([flat(tensors[i]) for i in self._order])

    def kth(self, k: int | Tensor, stride: int = 1) -> Tensor:
        """The k-th smallest magnitude; entries that are protected count as infinite."""
        if isinstance(k, int):
            return kth_magnitude_of_vector(self._vector[::stride], k)
        return kth_magnitude([self._vector], k, stride)

    def count_above(self, g: Tensor) -> list[int]:
        """Count the magnitudes of each tensor that are above ``g``."""
        running = (self._vector.abs() > g).cumsum(0)
        ends = _on_device(tuple(self._sizes), running.device).cumsum(0)
        totals = torch.cat([running.new_zeros(1), running]).index_select(0, ends).tolist()
        counts = [total - before for total, before in zip(totals, [0, *totals])]
        return [counts[self._place[i]] for i in range(len(counts))]

    def protect(
        self, indices: Sequence[int], minimum: int
    ) -> tuple[Sequence[int], Tensor, Tensor]:
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
        if small:
            begin, sizes = self._small_part()
            level = lower[: len(small)].repeat_interleave(sizes, output_size=len(begin))
            begin.masked_fill_(begin.abs() > level, math.inf)
        for place, level in zip(large, lower[len(small) :]):
            parts[place].masked_fill_(parts[place].abs() > level, math.inf)
        return [self._order[place] for place in places], smallest, lower

    def _small_part(self) -> tuple[Tensor, Tensor]:
        """The entries of the small tensors, and their sizes."""
        sizes = tuple(self._sizes[: self._small])
        return self._vector[: sum(sizes)], _on_device(sizes, self._vector.device)

    def _small_rows(self, least: int) -> Tensor:
        """Magnitudes as rows of a matrix with at least ``least`` columns, zeros at their ends."""
        begin, sizes = self._small_part()
        number, width = self._small, max(least, self._sizes[self._small - 1])
        starts = torch.arange(number, device=begin.device) * width - (sizes.cumsum(0) - sizes)
        places = torch.arange(len(begin), device=begin.device)
        places += starts.repeat_interleave(sizes, output_size=len(begin))
        rows = begin.new_zeros(number * width).index_copy_(0, places, begin.abs())
        return rows.view(number, width)


def _entries(tensors: Sequence[Tensor]) -> _Separate | _Joined:
    return _Joined(tensors) if _share_a_gpu(tensors) else _Separate(tensors)


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
    place = _on_device(tuple(sizes), largest.device).clamp(max=minimum).unsqueeze(1)
    pairs = torch.cat([infinite, largest], 1).gather(1, torch.cat([place, place + 1], 1))
    kept, lost = pairs.unbind(1)
    return kept, torch.where(kept > lost, lost, torch.nextafter(kept, torch.zeros_like(kept)))


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept between calls: a copy from the host would break the capture of a CUDA graph."""
    return torch.tensor(numbers, device=device)
