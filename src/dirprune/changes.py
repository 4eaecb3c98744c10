"""Detecting weights that were changed from outside, and setting v from them."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from dirprune.batch import CHUNK, ParameterBatch, chunks
from dirprune.kernels import extension, triton_step
from dirprune.kernels.rows import Row
from dirprune.prox import invert_threshold, power_threshold
from dirprune.quantile import flat, flat_like, is_sharded

# Tensors of up to WHOLE elements are compared completely, of larger ones one LINE in SPARSE lines.
WHOLE, LINE, SPARSE = 4096, 4096, 64


def adopt(batch: ParameterBatch) -> None:
    """Set v from the weights that differ from the result of the last step.

    All other entries of v keep their bits. Dense parameters are skipped. Nothing is copied to the
    host.
    """
    if batch.g_before is None:
        return
    traced = torch.compiler.is_compiling() or batch.g_before.is_cuda
    g = batch.g_before if traced else float(batch.g_before)
    rows = [row for row in chunks(batch.rows) if row.v is not None]
    if torch.compiler.is_compiling() or all(row.w.is_cpu for row in rows):
        for row in rows:
            row.v.copy_(_adopted(row.w, row.v, g, batch.power))
    else:
        adopt_concatenated(rows, g, batch.power)


def adopt_concatenated(rows: Sequence[Row], g: float | Tensor, power: float) -> None:
    """Adopt in few launches: on a GPU, one by one takes 30 times as long for many small tensors.

    Args:
        rows: Rows of one dtype and device, with v.
        g: The threshold that gave the weights.
        power: The exponent of the threshold function.
    """
    for part in _parts(rows):
        w, v = (torch.cat([row[i].reshape(-1) for row in part]) for i in (0, 1))
        new = torch.split(_adopted(w, v, g, power), [row.v.numel() for row in part])
        torch._foreach_copy_([row.v for row in part], [x.view_as(r.v) for x, r in zip(new, part)])


def _adopted(w: Tensor, v: Tensor, g: float | Tensor, power: float) -> Tensor:
    left = power_threshold(v, g, power).to(w.dtype)
    return torch.where(w == left, v, invert_threshold(w.to(v.dtype), v, g, power))


def _parts(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Group consecutive rows up to CHUNK elements, to bound the temporary memory."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and size + row.v.numel() > CHUNK:
            yield part
            part, size = [], 0
        part.append(row)
        size += row.v.numel()
    if part:
        yield part


def find_changed(rows: Sequence[Row], g: float, power: float, phase: int) -> list[Row]:
    """Find rows with weights that differ from the result of the last step, on a sample.

    A tensor of up to 4,096 elements is compared completely, a larger one on 4,096 of every
    262,144 elements, and at least on 4,096.

    Args:
        rows: Weights and accumulators on the CPU.
        g: The threshold of the last step.
        power: The exponent of the threshold function.
        phase: Selects the lines; 64 successive phases cover all of them.

    Returns:
        The rows that differ.
    """
    changed, rest = extension.find_changed(rows, g, power, phase)
    for row in rest:
        w, v = flat(row.w), flat_like(row.v, row.w)
        if w.numel() > WHOLE:
            lines = w.numel() // LINE
            chosen = slice(phase % min(SPARSE, lines), None, SPARSE)
            w, v = (t[: lines * LINE].view(lines, LINE)[chosen] for t in (w, v))
        left = power_threshold(v, g, power).to(w.dtype)
        if not torch.equal(left, w):
            changed.append(row)
    return changed


class LastWeights:
    """Identity of the weights after the last step, on the CPU.

    Assigning to a weight or copying into it changes its version counter or its storage. A write
    through ``.data`` does not, so the other weights are compared on a sample that changes at every
    step.
    """

    def __init__(self) -> None:
        self._left: dict[int, tuple[int, int]] = {}
        """Version and address of every weight."""
        self._phase = 0

    def adopt_changed(self, batch: ParameterBatch) -> None:
        """Adopt the weights of the rows on the CPU that were changed since the last step.

        Args:
            batch: The parameters. :func:`dirprune.update.update` handles the prepared ones and
                those on other devices.
        """
        group, g = batch.group, batch.g_before
        if batch.prepared or g is None or group["capturable"]:
            return
        first = batch.rows[0]
        if first.v is None or not first.w.is_cpu or triton_step.is_chosen(group, first.w):
            return
        weights = [row.w for row in batch.rows]
        left = map(self._left.get, map(id, weights))
        same = list(map(operator.eq, left, _identities(weights)))
        rest = list(compress(batch.rows, same))
        changed = list(compress(batch.rows, map(operator.not_, same)))
        if rest:
            self._phase += 1
            changed += find_changed(rest, float(g), batch.power, self._phase)
        if changed:
            adopt(batch._replace(rows=changed))

    @_disable_dynamo
    def remember(self, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Record the identity of the weights after this step."""
        weights = [p for p, own in state.items() if "v" in own]
        if any(map(is_sharded, set(map(type, weights)))):
            weights = [p for p in weights if not is_sharded(type(p))]
        self._left = dict(zip(map(id, weights), _identities(weights)))


def _identities(weights: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Version and address of each: by map, since a loop takes several times as long."""
    return zip(map(_version, weights), map(Tensor.data_ptr, weights))


_version = Tensor._version.__get__  # type: ignore[attr-defined]
