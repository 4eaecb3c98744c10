"""One gRDA step of many tensors, on whichever path is the fastest there is.

Every path computes v <- v - lr d, then w <- S_g(v); without v, the SGD step w <- w - lr d:

- a compiled step is traced as plain arithmetic, which the compiler fuses into one pass;
- the C++ extension does the same in one pass over all tensors, with momentum and weight decay
  (the default on the CPU where it is installed);
- multi-tensor calls (the default on CUDA), with w as the only scratch space;
- tensor by tensor (the default on the CPU without the extension): two passes over a chunk at a
  time, three where softshrink would leave -0.0, with all short vectors joined into one.
"""

from collections.abc import Iterable
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from dirprune._support import native

Group = dict[str, Any]
Row = tuple[Any, ...]

# Classes of tensors whose memory is the numbers themselves; others may be wrappers.
PLAIN = frozenset({Tensor, nn.Parameter})
_dtype, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")

# Elements updated at a time on the CPU: bounds what a step allocates. 1 << 20 measured no faster.
CHUNK = 1 << 22
# Vectors up to this length cost as much as the calls that update them.
SHORT = 1 << 14


class Batch(NamedTuple):
    """Parameters of one dtype and device that share rate and threshold.

    A row is w, v, gradient and momentum; v is None for all rows or for none, as is momentum.
    Rate and threshold are 0-dimensional tensors: as numbers they would be constants of a compiled
    step, which would have to be compiled anew whenever they change.
    """

    lr: Tensor
    g: Tensor
    rows: list[Row]

    @classmethod
    def empty(cls, lr: float, g: float) -> "Batch":
        """Make a batch without parameters."""
        rate, threshold = torch.tensor([lr, g], dtype=torch.float64, device="cpu").unbind()
        return cls(rate, threshold, [])


def local(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the shards of DTensors, which suffice, since the step is elementwise."""
    return tuple(None if t is None else t.to_local() for t in tensors)


def update(batch: Batch, group: Group) -> None:
    """Step the weights of a batch in place.

    Args:
        batch: The parameters.
        group: The options of their param group.
    """
    if torch.compiler.is_compiling():
        for w, v, grad, m in batch.rows:
            _descend_traced(w, v, _direction(w, grad, m, group), batch.lr, batch.g)
        return
    lr, g = float(batch.lr), float(batch.g)
    rows = batch.rows
    if rows[0][1] is None:
        for w, _, grad, m in rows:
            w.add_(_direction(w, grad, m, group), alpha=-lr)
        return
    if group["fused"] is not False and not group["foreach"] and (step := native.grda_step()):
        fused, rows = _split(rows)
        if fused:
            _descend_fused(step, fused, group, lr, g)
        if not rows:
            return
    if group["foreach"] or (group["foreach"] is None and rows[0][0].is_cuda):
        _descend_foreach(*_columns(rows, group), lr, g)
    else:
        _descend_each(rows, group, lr, g)


def state_dtype(p: Tensor) -> torch.dtype:
    """float32 for the half precisions, in which lr * d would be lost beside v."""
    return torch.float32 if p.dtype in (torch.bfloat16, torch.float16) else p.dtype


def _direction(w: Tensor, grad: Tensor, m: Tensor | None, group: Group) -> Tensor:
    """The direction of descent, rounded as torch.optim.SGD rounds it; m is updated."""
    if m is None and not (group["weight_decay"] or group["maximize"]):
        return grad
    d = -grad if group["maximize"] else grad
    if decay := group["weight_decay"]:
        d = d.to(state_dtype(w))
        d = d.add(w, alpha=decay) if d is grad else d.add_(w, alpha=decay)
    if (beta := group["momentum"]) and m is not None:
        m.mul_(beta).add_(d)
        if not group["nesterov"]:
            return m
        d = d.to(m.dtype)
        d = d.add(m, alpha=beta) if d is grad else d.add_(m, alpha=beta)
    return d


def _split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """The rows that the extension can step, and the others."""
    if _are_arrays(rows):
        return rows, []
    parts: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        parts[not _are_arrays([row])].append(row)
    return parts


def _are_arrays(rows: list[Row]) -> bool:
    """Whether rows are float32 arrays on the CPU, the elements of each row in the same order."""
    columns = [column for column in zip(*rows) if column[0] is not None]
    # map over columns: a hundred tensors are asked in a fifth of the time of a loop
    return (
        all(PLAIN.issuperset(map(type, column)) for column in columns)
        and all({torch.float32}.issuperset(map(_dtype, column)) for column in columns)
        and all(all(map(_is_cpu, column)) for column in columns)
        and not any(map(Tensor.is_neg, columns[2]))  # their memory holds the opposite
        and (
            all(all(map(Tensor.is_contiguous, column)) for column in columns)
            or (len(rows) == 1 and all(_is_channels_last(*column) for column in columns))
        )
    )


def _is_channels_last(t: Tensor) -> bool:
    return t.is_contiguous(memory_format=torch.channels_last)


def _descend_fused(
    step: native.FusedStep, rows: list[Row], group: Group, lr: float, g: float
) -> None:
    w, v, grad, m = zip(*rows)
    step(
        list(map(Tensor.data_ptr, w)),
        list(map(Tensor.data_ptr, v)),
        list(map(Tensor.data_ptr, grad)),
        list(map(Tensor.data_ptr, m)) if group["momentum"] else [],
        list(map(Tensor.numel, w)),
        lr=lr,
        g=g,
        momentum=group["momentum"],
        decay=group["weight_decay"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        threads=torch.get_num_threads(),
    )
    increment_version(w)  # so that autograd sees a change that went past torch


def _columns(rows: list[Row], group: Group) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """All v, all w and all directions."""
    w, v, grad, m = zip(*rows)
    return list(v), list(w), [_direction(*each, group) for each in zip(w, grad, m)]


def _descend_each(rows: list[Row], group: Group, lr: float, g: float) -> None:
    joined = []
    for w, v, grad, m in rows:
        numel = w.numel()
        if numel <= SHORT and w.ndim == 1 and w.dtype == v.dtype:
            joined.append((w, v, _direction(w, grad, m, group)))
        elif numel <= CHUNK:
            _descend_one(w, v, _direction(w, grad, m, group), lr, g)
        else:
            for w_, v_, grad_, m_ in _chunks(w, v, grad, m):
                _descend_one(w_, v_, _direction(w_, grad_, m_, group), lr, g)
    if joined:
        w_all, v_all, d_all = zip(*joined)
        lengths = [w.numel() for w in w_all]
        v = torch.cat(v_all).add_(torch.cat(d_all), alpha=-lr)
        torch._foreach_copy_(v_all, torch.split(v, lengths))
        torch._foreach_copy_(w_all, torch.split(v.sub_(v.clamp(-g, g)), lengths))


def _descend_one(w: Tensor, v: Tensor, d: Tensor, lr: float, g: float) -> None:
    v.add_(d, alpha=-lr)
    _threshold(w, v, g)


def _threshold(w: Tensor, v: Tensor, g: float) -> None:
    """Write S_g(v) into w."""
    if w.dtype != v.dtype:
        shrunk = v.clamp(-g, g)
        torch.sub(v, shrunk, out=shrunk)
        w.copy_(shrunk).add_(0.0)  # the cast may underflow to -0.0, which the sum makes 0.0
    elif (
        _softshrink_is_clean(w.numel(), w.dtype, w.device, torch.get_num_threads())
        and w.is_contiguous()
        and v.is_contiguous()
    ):
        F.softshrink(v, g, out=w)  # type: ignore[call-arg]
    else:
        torch.clamp(v, -g, g, out=w)
        torch.sub(v, w, out=w)


@cache
def _softshrink_is_clean(
    numel: int, dtype: torch.dtype, device: torch.device, threads: int
) -> bool:
    """Whether torch's softshrink yields 0.0, not -0.0, everywhere in a vector of this length.

    On the CPU it yields 0.0 in the SIMD part of every thread's share and -0.0 in the rest: the
    answer depends on the length, the threads and the machine, not on the values.
    """
    inside = torch.full((numel,), -0.5, dtype=dtype, device=device)
    return not bool(F.softshrink(inside, 1.0).signbit().any())


def _chunks(*tensors: Tensor | None) -> Iterable[tuple[Any, ...]]:
    """Cut tensors of one shape alike; None stays None."""
    whole = [t for t in tensors if t is not None]
    if all(t.is_contiguous() for t in whole):
        tensors = tuple(None if t is None else t.view(-1) for t in tensors)
        rows = CHUNK
    else:
        rows = max(1, whole[0].shape[0] * CHUNK // whole[0].numel())
    count = -(-next(len(t) for t in tensors if t is not None) // rows)
    return zip(*([None] * count if t is None else torch.split(t, rows) for t in tensors))


def _descend_foreach(
    v: list[Tensor], w: list[Tensor], d: list[Tensor], lr: float, g: float
) -> None:
    torch._foreach_add_(v, d, alpha=-lr)
    if v[0].dtype != w[0].dtype:
        for w_, v_ in zip(w, v):
            _threshold(w_, v_, g)
        return
    torch._foreach_copy_(w, v)
    torch._foreach_clamp_max_(w, g)
    torch._foreach_clamp_min_(w, -g)
    torch._foreach_neg_(w)
    torch._foreach_add_(w, v)


def _descend_traced(w: Tensor, v: Tensor | None, d: Tensor, lr: Tensor, g: Tensor) -> None:
    if v is None:
        w.sub_(lr * d)
        return
    v.sub_(lr * d.to(v.dtype))
    shrunk = (v - v.clamp(-g, g)).to(w.dtype)
    w.copy_(torch.where(shrunk == 0, 0.0, shrunk))
