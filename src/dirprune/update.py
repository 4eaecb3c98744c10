"""One step of a dual averaging optimizer on many tensors, by the fastest implementation.

A step is v <- v - lr d with SGD's or Adam's direction d, then w <- T_p(v, g). A batch without v
updates w itself and stays dense. Before the step, v is set from the weights that were changed from
outside (`adopt`). The paths:

- a compiled step is traced as plain arithmetic, which the compiler fuses into one pass;
- Triton does everything in one launch (the default on CUDA);
- the C++ extension does the step in one pass over all tensors (the default on the CPU if it is
  installed, for float32, SGD's direction and p = 1 or 2; for Adam only the threshold). If all
  tensors of a group stay the same between steps, their addresses are prepared;
- multi-tensor calls (on CUDA without Triton), with w as the only temporary memory;
- tensor by tensor, in chunks (the default on the CPU without the extension).
"""

from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from dirprune.batch import Group, ParameterBatch, chunks, may_extend, state_dtype
from dirprune.changes import adopt
from dirprune.kernels import extension, triton_step
from dirprune.kernels.arrays import Arrays
from dirprune.kernels.prepared_group import PreparedGroup
from dirprune.kernels.rows import Adam, Gradient, Row, Scalar
from dirprune.prox import power_threshold


def update(batch: ParameterBatch) -> None:
    """Step the weights of a batch in place.

    Weights that were changed from outside are adopted. On the CPU, rows that are not prepared are
    left to :class:`~dirprune.changes.LastWeights`.
    """
    group, capturable = batch.group, batch.group["capturable"]
    if batch.prepared and isinstance(batch.prepared.tables, Arrays):
        _step_arrays(batch, batch.prepared, batch.prepared.tables)
        return
    if not torch.compiler.is_compiling() and _step_triton(batch):
        return
    if batch.prepared:
        batch = batch._replace(rows=batch.prepared.rows(), prepared=None)
    if batch.g.dim():
        for part in batch.split_by_threshold():
            update(part)
        return
    if torch.compiler.is_compiling() or capturable:
        if not batch.rows[0].w.is_cpu or capturable:
            adopt(batch)
        for row in batch.rows:
            _descend_traced(row, batch)
            if row.v is not None:
                _write(row.w, power_threshold(row.v, batch.g, batch.power))
        return
    if not batch.rows[0].w.is_cpu or triton_step.is_chosen(group, batch.rows[0].w):
        adopt(batch)
    lr, g, step = float(batch.lr), float(batch.g), int(batch.step)
    rows = batch.rows
    if may_extend(group) and rows[0].v is not None and "betas" not in group:
        rows = extension.step(rows, _gradient_rule(group, lr), g, batch.power)
    if not rows:
        return
    rest = batch._replace(rows=rows)
    if _is_foreach(rest) or (may_extend(group) and "betas" in group):
        _descend_foreach(rest, lr, step)
        threshold(rest)
    else:
        for row in chunks(rows):
            _descend_one(row, lr, step, group)
            if row.v is not None:
                _threshold_one(row.w, row.v, g, batch.power)


def threshold(batch: ParameterBatch) -> None:
    """Write the thresholds of the accumulators into the weights; dense rows stay."""
    p, first = batch.power, batch.rows[0]
    if first.v is None:
        return
    if triton_step.is_chosen(batch.group, first.w):
        level: Any = batch.g if batch.g.is_cuda or batch.g.dim() else float(batch.g)
        if triton_step.step(batch.rows, None, level, level, p):
            return
    if batch.g.dim():
        for part in batch.split_by_threshold():
            threshold(part)
        return
    if batch.g.is_cuda:
        for row in batch.rows:
            _write(row.w, power_threshold(row.v, batch.g, p))
        return
    g, rows = float(batch.g), batch.rows
    if may_extend(batch.group):
        rows = extension.step(rows, None, g, p)
    if p == 1 and _is_foreach(batch) and first.w.dtype == first.v.dtype:
        w, v = ([row[i] for row in batch.rows] for i in (0, 1))
        torch._foreach_copy_(w, v)
        torch._foreach_clamp_max_(w, g)
        torch._foreach_clamp_min_(w, -g)
        torch._foreach_neg_(w)
        torch._foreach_add_(w, v)
    else:
        for row in chunks(rows):
            _threshold_one(row.w, row.v, g, p)


def _is_foreach(batch: ParameterBatch) -> bool:
    foreach: bool | None = batch.group["foreach"]
    return batch.rows[0].w.is_cuda if foreach is None else foreach


# SGD's direction


def _sgd_direction(row: Row, group: Group) -> Any:
    """The direction of descent, rounded as torch.optim.SGD rounds it; m is updated."""
    w, grad, m = row.w, row.grad, row.m
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


# Adam's direction


def _descend_adam(row: Row, lr: float, step: int, group: Group) -> None:
    """Move v (or w, if dense) as torch.optim.AdamW moves w; m and s are updated."""
    w, _, grad, m, s = row
    beta1, beta2 = group["betas"]
    d = (-grad if group["maximize"] else grad).to(m.dtype)
    x = w.to(m.dtype) if row.v is None else row.v
    if decay := group["weight_decay"]:
        if row.v is None:
            x.mul_(1 - lr * decay)
        else:
            x.add_(w, alpha=-lr * decay)
    m.lerp_(d, 1 - beta1)
    s.mul_(beta2).addcmul_(d, d, value=1 - beta2)
    denominator = (s.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
    x.addcdiv_(m, denominator, value=-(lr / (1 - beta1**step)))
    if row.v is None and x is not w:
        w.copy_(x)


# The paths


def _descend_one(row: Row, lr: float, step: int, group: Group) -> None:
    if "betas" in group:
        _descend_adam(row, lr, step, group)
    else:
        (row.w if row.v is None else row.v).add_(_sgd_direction(row, group), alpha=-lr)


def _threshold_one(w: Tensor, v: Tensor, g: float, power: float) -> None:
    if power == 1 and w.dtype == v.dtype:
        torch.clamp(v, -g, g, out=w)  # as soft_threshold, without temporary memory
        torch.sub(v, w, out=w)
    else:
        _write(w, power_threshold(v, g, power))


def _write(w: Tensor, sparse: Tensor) -> None:
    w.copy_(sparse)
    if w.dtype != sparse.dtype:
        w.add_(0.0)  # the cast may underflow to -0.0, which the sum makes 0.0


def _descend_foreach(batch: ParameterBatch, lr: float, step: int) -> None:
    rows, group = batch.rows, batch.group
    if "betas" in group:
        for row in chunks(rows):
            _descend_adam(row, lr, step, group)
        return
    x = [row.w if row.v is None else row.v for row in rows]
    torch._foreach_add_(x, [_sgd_direction(row, group) for row in rows], alpha=-lr)


def _descend_traced(row: Row, batch: ParameterBatch) -> None:
    """Descend with the scalars as tensors."""
    w, v, grad, m, s = row
    group, lr = batch.group, batch.lr
    x = w if v is None else v
    if "betas" not in group:
        x.sub_(lr * _sgd_direction(row, group).to(x.dtype))
        return
    beta1, beta2 = group["betas"]
    d = (-grad if group["maximize"] else grad).to(m.dtype)
    if decay := group["weight_decay"]:
        x.sub_(lr * decay * w)
    m.lerp_(d, 1 - beta1)
    s.mul_(beta2).addcmul_(d, d, value=1 - beta2)
    denominator = s.sqrt() / (1 - beta2**batch.step).sqrt() + group["eps"]
    x.sub_(lr / (1 - beta1**batch.step) * (m / denominator))


# The C++ extension, prepared


@_disable_dynamo  # calls the extension
def _step_arrays(batch: ParameterBatch, prepared: PreparedGroup, arrays: Arrays) -> None:
    """Step on the CPU in one call, after weights that were changed from outside are adopted."""
    group, power, g = batch.group, batch.power, float(batch.g)
    g_before = None if batch.g_before is None else float(batch.g_before)
    is_adam = "betas" in group
    changed = arrays.find_rewritten(prepared.w, prepared.v)
    if is_adam and g_before is not None:
        changed |= arrays.find_changed(g_before, power)
    if changed:
        adopt(batch.part(prepared.rows(), changed))
    if is_adam:
        _descend_foreach(batch._replace(rows=prepared.rows()), float(batch.lr), int(batch.step))
        arrays.step(prepared.w, prepared.v, (), None, g, power)
        return
    rule = _gradient_rule(group, float(batch.lr))
    left = arrays.step(prepared.w, prepared.v, prepared.grads, rule, g, power, g_before)
    if left:
        rest = batch.part(prepared.rows(), left)
        adopt(rest)
        extension.step(rest.rows, rule, g, power)
        arrays.remember(prepared.w, prepared.v)


# Triton


def _step_triton(batch: ParameterBatch) -> bool:
    """Step on a GPU in one launch, if Triton can take the rows."""
    group, prepared = batch.group, batch.prepared
    if batch.g_before is None or not (prepared or triton_step.is_chosen(group, batch.rows[0].w)):
        return False
    numbers = (batch.lr, batch.step, batch.g, batch.g_before)
    lr, step, g, g_before = (x if x.is_cuda or x.dim() else float(x) for x in numbers)
    rule = _adam_rule(group, lr, step) if "betas" in group else _gradient_rule(group, lr)
    if prepared and isinstance(prepared.tables, triton_step.Tables):
        return prepared.tables.step(prepared.w, prepared.grads, rule, g, g_before, batch.power)
    return triton_step.step(batch.rows, rule, g, g_before, batch.power)


def _gradient_rule(group: Group, lr: Scalar) -> Gradient:
    options = group["momentum"], group["nesterov"], group["weight_decay"], group["maximize"]
    return Gradient(lr, *options)


def _adam_rule(group: Group, lr: Scalar, step: Scalar) -> Adam:
    options = group["betas"], group["eps"], group["weight_decay"], group["maximize"]
    return Adam(lr, step, *options)
