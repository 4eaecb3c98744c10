"""The k-th smallest magnitude of many tensors, exact, on any device, also of sharded tensors."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

DIGIT = 16  # bits that one pass over the tensors determines
BINS = 1 << DIGIT
SAMPLE = 1 << 17  # entries that enclose an order statistic of a vector
JOINED = 1 << 20  # entries of tensors on the CPU that are copied into one


def kth_magnitude(tensors: Sequence[Tensor], k: int | Tensor, stride: int = 1) -> Tensor:
    r"""Return the k-th smallest :math:`|v|` of all entries of several tensors together.

    It is a radix selection: non-negative floats have the same order as their bits read as
    integers. A histogram of the leading 16 bits finds the bin of the k-th smallest entry, and
    histograms within that bin find the remaining bits. Counts are integers and are summed over
    the shards of DTensors, so the result is exact and equal on all ranks. Nothing is copied to
    the host.

    Args:
        tensors: float32 or float64; all shards of a DTensor are counted. A NaN is larger than
            every number.
        k: Counted from 1; for 0 the result is 0.
        stride: Use only every ``stride``-th entry of each shard.

    Returns:
        A 0-dimensional tensor on the first tensor's device, float64 if one of the tensors is.

    Example:
        >>> kth_magnitude([torch.tensor([3.0, -1.0]), torch.tensor([[-2.0]])], 2)
        tensor(2.)
    """
    double = any(t.dtype == torch.float64 for t in tensors)
    dtype = torch.float64 if double else torch.float32
    parts = [(flat(local_part(t))[::stride].to(dtype), t) for t in tensors]
    groups = [(t, list(map(_magnitude_bits, group))) for t, group in _by_shards(parts)]
    integer, device = groups[0][1][0].dtype, groups[0][1][0].device
    width = 63 if integer == torch.int64 else 31
    rank = torch.as_tensor(k, dtype=torch.int64, device=device)
    found = torch.zeros((), dtype=integer, device=device)
    for shift in range(width - width % DIGIT, -1, -DIGIT):
        counts = torch.zeros(BINS, dtype=torch.int64, device=device)
        for like, group in groups:
            counts += _sum_over_shards(_histogram(group, found, shift), like)
        below = counts.cumsum(0)
        digit = (below < rank).sum()
        # indexing with a tensor would synchronise with the host
        before = below.index_select(0, (digit - 1).clamp(min=0).reshape(1)).reshape(())
        rank = rank - torch.where(digit > 0, before, 0)
        found = (found << DIGIT) | digit.to(integer)
        groups = [(like, _with_leading_bits(group, found, shift)) for like, group in groups]
    return torch.where(torch.as_tensor(k, device=device) > 0, found.view(dtype), 0.0)


def kth_magnitude_of_vector(v: Tensor, k: int) -> Tensor:
    r"""Return the k-th smallest :math:`|v|` of a long vector in few passes, exactly.

    Two order statistics of a sample enclose the k-th smallest entry, except by a small chance.
    Then only the entries between them have to be sorted. Otherwise all are.

    Args:
        v: A vector without shards.
        k: Counted from 1; for 0 the result is 0.

    Returns:
        A 0-dimensional tensor on the vector's device. A NaN is larger than every number.

    References:
        Expected time bounds for selection (Floyd & Rivest, 1975).

    Example:
        >>> kth_magnitude_of_vector(torch.tensor([3.0, -1.0, -2.0]), 2)
        tensor(2.)
    """
    if not k:
        return v.new_zeros(())
    magnitudes = v.abs()
    if len(v) <= 4 * SAMPLE:
        return magnitudes.sort().values[k - 1]
    sample = magnitudes[:: len(v) // SAMPLE | 1].sort().values
    # a rank in a random sample of n has a standard deviation of at most sqrt(n) / 2
    place, margin = k * len(sample) // len(v), 3 * math.isqrt(len(sample)) + 1
    low = sample[place - margin] if place >= margin else 0.0
    high = sample[place + margin] if place + margin < len(sample) else math.inf
    between = magnitudes[(magnitudes >= low) & (magnitudes <= high)]
    rank = k - int((magnitudes < low).sum())
    if not 0 < rank <= len(between):
        between, rank = magnitudes, k
    return between.sort().values[rank - 1]


def kth_magnitude_near(tensors: Sequence[Tensor], k: int, near: float) -> Tensor:
    """Return the k-th smallest magnitude like :func:`kth_magnitude`, faster if it is near a guess.

    Only the entries within 1 % of the guess are sorted. If the k-th is not among them, or if
    tensors are sharded, :func:`kth_magnitude` is called.

    Args:
        tensors: float32 or float64.
        k: Counted from 1; for 0 the result is 0.
        near: The guess, at least 0.

    Returns:
        A 0-dimensional tensor.

    Example:
        >>> kth_magnitude_near([torch.tensor([3.0, -1.0]), torch.tensor([[-2.0]])], 2, near=2.01)
        tensor(2.)
    """
    if any(is_sharded(type(t)) for t in tensors):
        return kth_magnitude(tensors, k)
    low, high = 0.99 * near, 1.01 * near
    below, between = 0, []
    for part in _joined([flat(t) for t in tensors]):
        magnitudes = part.abs()
        below += int((magnitudes < low).count_nonzero())  # NaN is treated as large
        between.append(magnitudes[(magnitudes >= low) & (magnitudes <= high)])
    if not 0 < k - below <= sum(map(len, between)):
        return kth_magnitude(tensors, k)
    return torch.cat([part.to(between[0].device) for part in between]).sort().values[k - below - 1]


def mark_smallest(scores: Sequence[Tensor], number: int) -> list[Tensor]:
    """Mark the smallest entries of many tensors together; ties go to the first entries.

    Args:
        scores: Any shapes, one dtype and device, no NaN.
        number: Number of entries, between 0 and all.

    Returns:
        Booleans of the same shapes, exactly ``number`` of them true.

    Example:
        >>> mark_smallest([torch.tensor([3.0, 1.0]), torch.tensor([[1.0], [1.0]])], 2)
        [tensor([False,  True]), tensor([[ True], [False]])]
    """
    flat = torch.cat([score.reshape(-1) for score in scores])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    if number:
        largest = flat.kthvalue(number).values
        chosen = flat < largest
        equals = (flat == largest).nonzero().squeeze(1)
        chosen[equals[: number - int(chosen.sum())]] = True
    parts = torch.split(chosen, [score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def magnitudes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Score every entry by its absolute value, in float32 or better."""
    return [t.detach().abs().to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def _histogram(parts: list[Tensor], found: Tensor, shift: int) -> Tensor:
    """Count the next digit of the entries with leading bits ``found``."""
    counts = torch.zeros(BINS, dtype=torch.int64, device=found.device)
    for bits in parts:
        rest = bits >> shift
        if bits.is_cuda:  # bincount synchronises with the device
            # other entries are spread over BINS more bins: additions to one address serialise
            missed = BINS + (bits & (BINS - 1))
            digit = torch.where(rest >> DIGIT == found.to(bits.device), rest & (BINS - 1), missed)
            own = torch.zeros(2 * BINS, dtype=torch.int64, device=bits.device)
            own.scatter_add_(0, digit.long(), own.new_ones(()).expand(digit.shape))
        else:
            own = torch.bincount(rest & (BINS - 1), minlength=BINS)
        counts += own[:BINS].to(counts.device)
    return counts


def _with_leading_bits(parts: list[Tensor], found: Tensor, shift: int) -> list[Tensor]:
    """Select the entries that can still be the k-th; on a GPU all, as selecting synchronises."""
    return [
        bits if bits.is_cuda else bits[bits >> shift == found.to(bits.device)] for bits in parts
    ]


def count_above(tensors: Sequence[Tensor], g: Tensor) -> Tensor:
    """Count the entries of each tensor whose magnitude is above ``g``, over all shards.

    Args:
        tensors: Tensors; all shards of a DTensor are counted.
        g: 0-dimensional, or one threshold per tensor.

    Returns:
        int64, with shape (number of tensors,).

    Example:
        >>> count_above([torch.tensor([3.0, -1.0]), torch.tensor([-2.0])], torch.tensor(1.0))
        tensor([1, 1])
    """
    counts = torch.stack(
        [
            # a hundred times as fast as the sum of booleans on a CPU
            (local_part(t).abs() > level.to(t.device)).count_nonzero().to(g.device)
            for t, level in zip(tensors, g.expand(len(tensors)))
        ]
    )
    for i, t in enumerate(tensors):
        if is_sharded(type(t)):
            counts[i] = _sum_over_shards(counts[i].clone(), t)
    return counts


def largest_magnitudes(t: Tensor, number: int) -> Tensor:
    """Return the ``number`` largest magnitudes of a tensor in descending order, over all shards.

    Example:
        >>> largest_magnitudes(torch.tensor([3.0, -5.0, 1.0]), 2)
        tensor([5., 3.])
    """
    magnitudes = flat(local_part(t)).abs()
    best = magnitudes.new_zeros(number)
    top = magnitudes.topk(min(number, magnitudes.numel())).values
    best[: top.numel()] = top
    for group in _shard_groups(t):
        gathered = [torch.empty_like(best) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, best, group=group)
        best = torch.cat(gathered).topk(number).values
    return best


def flat(t: Tensor) -> Tensor:
    """View a tensor as a vector, in memory order, without a copy if it is dense in memory."""
    return flat_like(t, t)


def flat_like(t: Tensor, other: Tensor) -> Tensor:
    """View a tensor in the order that :func:`flat` gives another; a copy if the formats differ."""
    if t.is_contiguous() and other.is_contiguous():
        return t.view(-1)
    order = sorted(range(t.dim()), key=other.stride, reverse=True)
    return t.permute(order).reshape(-1)


def is_sharded(kind: type) -> bool:
    """Whether tensors of this class are DTensors, without importing them."""
    return hasattr(kind, "to_local")


def local_part(t: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, or the tensor itself."""
    return t.to_local() if is_sharded(type(t)) else t  # type: ignore[attr-defined]


def _magnitude_bits(t: Tensor) -> Tensor:
    return t.abs().view(torch.int64 if t.dtype == torch.float64 else torch.int32)


def _by_shards(parts: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, list[Tensor]]]:
    """Group the parts by the ranks that hold the other shards of their tensors."""
    groups: dict[object, tuple[Tensor, list[Tensor]]] = {}
    for part, t in parts:
        key = (t.device_mesh, t.placements) if is_sharded(type(t)) else None  # type: ignore[attr-defined]
        groups.setdefault(key, (t, []))[1].append(part)
    return [(t, _joined(group)) for t, group in groups.values()]


def _joined(parts: list[Tensor]) -> list[Tensor]:
    """Join small tensors on the CPU, which have fewer entries than a histogram has bins."""
    small = all(part.is_cpu for part in parts) and sum(map(Tensor.numel, parts)) <= JOINED
    return [torch.cat(parts)] if small else parts


def _shard_groups(t: Tensor) -> list[dist.ProcessGroup]:
    """The process groups over which a DTensor is sharded; none for an ordinary tensor."""
    if not is_sharded(type(t)):
        return []
    mesh, placements = t.device_mesh, t.placements  # type: ignore[attr-defined]
    # is_shard() is False for the strided shards of FSDP2 over tensor parallelism
    unsharded = [placed.is_replicate() or placed.is_partial() for placed in placements]
    return [mesh.get_group(i) for i, full in enumerate(unsharded) if not full]


def _sum_over_shards(counts: Tensor, t: Tensor) -> Tensor:
    for group in _shard_groups(t):
        dist.all_reduce(counts, group=group)
    return counts
