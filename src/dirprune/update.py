"""One gRDA step of many tensors, on whichever of five paths is the fastest there is.

Every path computes v <- v - lr d, then w <- S_g(v); without v, the SGD step w <- w - lr d:

- a compiled step is traced as plain arithmetic, which the compiler fuses into one pass;
- the C++ extension does the same in one pass over all tensors;
- on CUDA, a handful of multi-tensor calls with w as the only scratch space;
- on the CPU, two passes over a chunk that stays in cache (three where softshrink has a tail),
  and all vectors (biases, normalisation) joined into one;
- half-precision weights, rounded from a float32 accumulator, chunk by chunk.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune import _native

Group = dict[str, Any]

# Elements updated at a time on the CPU, so that the second pass finds most of v in cache.
CHUNK = 1 << 22


class Batch(NamedTuple):
    """Parameters that share rate and threshold; ``v`` and ``m`` hold None where there is none.

    Rate and threshold are 0-dimensional tensors: as numbers they would be constants of a compiled
    step, which would have to be compiled anew whenever they change.
    """

    lr: Tensor
    g: Tensor
    w: list[Tensor]
    v: list[Any]
    grad: list[Tensor]
    m: list[Any]

    @classmethod
    def empty(cls, lr: float, g: float) -> "Batch":
        """Make a batch without parameters."""
        rate, threshold = torch.tensor([lr, g], dtype=torch.float64).unbind()
        return cls(rate, threshold, [], [], [], [])

    def add(self, p: Tensor, state: dict[str, Any]) -> None:
        """Take in a parameter with its gradient and state; of a sharded one, the local shard."""
        self.w.append(_local(p))
        self.v.append(_local(state.get("v")))
        self.grad.append(_local(p.grad))
        self.m.append(_local(state.get("momentum_buffer")))


def update(batch: Batch, group: Group) -> None:
    """Step the weights of a batch in place.

    Args:
        batch: Parameters of one dtype and device.
        group: The options of their param group.

    Raises:
        ValueError: If ``fused=True`` and the C++ extension is not installed.
    """
    w, v = batch.w[0], batch.v[0]
    if torch.compiler.is_compiling():
        for w, v, grad, m in zip(*batch[2:]):
            _descend_traced(w, v, _direction(w, grad, m, group), batch.lr, batch.g)
        return
    lr, g = float(batch.lr), float(batch.g)
    native = _native_step(group)
    if native and v is not None and w.dtype == torch.float32 and w.device.type == "cpu":
        native(batch.v, batch.w, _directions(batch, group), lr, g)
    elif group["foreach"] or (group["foreach"] is None and w.is_cuda):
        _descend_foreach(batch.w, batch.v, _directions(batch, group), lr, g)
    elif v is not None and v.dtype == w.dtype and w.dim() == 1 and len(batch.w) > 1:
        _descend_vectors(batch.w, batch.v, _directions(batch, group), lr, g)
    else:
        for w, v, grad, m in zip(*batch[2:]):
            if v is None:
                w.add_(_direction(w, grad, m, group), alpha=-lr)
            else:
                _descend(w, v, grad, m, group, lr, g)


def state_dtype(p: Tensor) -> torch.dtype:
    """float32 for the half precisions, in which lr * d would be lost beside v."""
    return torch.float32 if p.dtype in (torch.bfloat16, torch.float16) else p.dtype


def _local(t: Any) -> Any:
    """The shard of a DTensor, since the step is elementwise; any other tensor, or None, itself."""
    return t.to_local() if hasattr(t, "to_local") else t


def _direction(w: Tensor, grad: Tensor, m: Tensor | None, group: Group) -> Tensor:
    """The direction of descent, rounded as torch.optim.SGD rounds it; m is updated."""
    d = -grad if group["maximize"] else grad
    if group["weight_decay"]:
        d = d.add(w, alpha=group["weight_decay"])
    if m is not None and group["momentum"]:
        m.mul_(group["momentum"]).add_(d)
        d = d.add(m, alpha=group["momentum"]) if group["nesterov"] else m
    return d


def _directions(batch: Batch, group: Group) -> list[Tensor]:
    return [_direction(w, grad, m, group) for w, grad, m in zip(batch.w, batch.grad, batch.m)]


def _descend(
    w: Tensor, v: Tensor, grad: Tensor, m: Tensor | None, group: Group, lr: float, g: float
) -> None:
    threads = torch.get_num_threads()
    for w_, v_, grad_, m_ in _chunks(w, v, grad, m):
        v_.add_(_direction(w_, grad_, m_, group), alpha=-lr)
        if w_.dtype != v_.dtype:
            # the cast may underflow to -0.0, which the sum with 0.0 makes 0.0
            w_.copy_(v_ - v_.clamp(-g, g)).add_(0.0)
        elif w_.is_contiguous() and _softshrink_is_clean(w_.numel(), w_.dtype, threads):
            F.softshrink(v_, g, out=w_)  # type: ignore[call-arg]
        else:
            torch.clamp(v_, -g, g, out=w_)
            torch.sub(v_, w_, out=w_)


def _descend_vectors(
    w: list[Tensor], v: list[Tensor], d: list[Tensor], lr: float, g: float
) -> None:
    """Join the vectors, which are so short that they cost as much as the calls."""
    lengths = [len(v_) for v_ in v]
    joined = torch.cat(v).add_(torch.cat(d), alpha=-lr)
    torch._foreach_copy_(v, torch.split(joined, lengths))
    torch._foreach_copy_(w, torch.split(joined.sub_(joined.clamp(-g, g)), lengths))


def _chunks(w: Tensor, *others: Tensor | None) -> Iterable[tuple[Any, ...]]:
    """Cut tensors of one shape alike, along their first dimension; None stays None."""
    if w.numel() <= CHUNK:
        return [(w, *others)]
    rows = max(1, w.shape[0] * CHUNK // w.numel())
    pieces = torch.split(w, rows)
    return zip(
        pieces, *([None] * len(pieces) if t is None else torch.split(t, rows) for t in others)
    )


@cache
def _softshrink_is_clean(numel: int, dtype: torch.dtype, threads: int) -> bool:
    """Whether torch's softshrink yields 0.0, not -0.0, everywhere in a vector of this length.

    It yields 0.0 in the SIMD part of every thread's share and -0.0 in the rest: the answer
    depends on the length, the dtype, the number of threads and the machine, not on the values.
    """
    inside = torch.full((numel,), -0.5, dtype=dtype)
    return not bool(F.softshrink(inside, 1.0).signbit().any())


def _descend_foreach(w: list[Tensor], v: list[Any], d: list[Tensor], lr: float, g: float) -> None:
    if v[0] is None:
        torch._foreach_add_(w, d, alpha=-lr)
    elif v[0].dtype != w[0].dtype:
        torch._foreach_add_(v, d, alpha=-lr)
        for w_, v_ in zip(w, v):
            w_.copy_(v_ - v_.clamp(-g, g)).add_(0.0)
    else:
        torch._foreach_add_(v, d, alpha=-lr)
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


def _native_step(group: Group) -> _native.FusedStep | None:
    if group["fused"] is False or group["foreach"]:
        return None
    native = _native.grda_step()
    if group["fused"] and native is None:
        raise ValueError(
            "fused=True needs dirprune's C++ extension, which this installation does not have; "
            "leave fused=None for the fastest path there is"
        )
    return native
