"""The pruning methods, on one flat vector: dual averaging with a threshold, or masks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dirprune import SparsityPlan
from dirprune.train.baselines.acdc import COMPRESSED
from dirprune.train.baselines.rigl import erdos_renyi_kernel

EVERY = 100
"""Steps between changes of a mask."""
END = 0.75


class Method(NamedTuple):
    """How a method prunes.

    Attributes:
        power: Of the threshold function, or None for methods with a mask.
        change: Changes a mask between steps.
    """

    power: float | None = None
    change: Callable[["Masked", int], None] | None = None


class Masked(NamedTuple):
    """The arguments of a rule that changes a mask: flat weights, momenta, gradients, mask."""

    w: Tensor
    m: Tensor
    grad: Tensor
    mask: Tensor
    shapes: list[tuple[int, ...]]
    sparsity: float
    steps: int
    generator: torch.Generator


def gradual(state: Masked, step: int) -> None:
    """Zhu & Gupta (2017): the smallest magnitudes go, and stay away."""
    last = min(math.ceil(END * state.steps), state.steps - 1)
    if step == last or (step % EVERY == 0 and step < last):
        plan = SparsityPlan(state.sparsity, state.steps, end=END)
        share = state.sparsity if step == last else plan.sparsity_at(step)
        number = round(share * state.w.numel())
        scores = torch.where(state.mask > 0, state.w.abs(), -1.0)
        _drop(state.mask.fill_(1.0), scores, number)


def rigl(state: Masked, step: int) -> None:
    """Evci et al. (2020): places by ERK, the smallest move to the largest gradients."""
    last = END * state.steps
    if step % min(EVERY, max(1, int(last) // 20)) or step >= last:
        return
    active = erdos_renyi_kernel(state.shapes, round(state.sparsity * state.w.numel()))
    sizes = [math.prod(shape) for shape in state.shapes]
    masks = state.mask.split(sizes)
    share = 0.15 * (1 + math.cos(math.pi * step / last))
    for mask, w, grad, number in zip(
        masks, state.w.split(sizes), state.grad.split(sizes), active, strict=True
    ):
        count = int(share * number)
        if step == 0:
            order = torch.rand(len(w), generator=state.generator, device=w.device).argsort()
            mask.zero_()[order[:number]] = 1.0
        elif count:
            magnitudes = torch.where(mask > 0, w.abs(), math.inf)
            mask[magnitudes.topk(count, largest=False).indices] = 0.0
            gains = torch.where(mask > 0, -1.0, grad.abs().float())
            grown = gains.topk(count).indices
            mask[grown] = 1.0
            w[grown] = 0.0
    _apply(state)


def acdc(state: Masked, step: int) -> None:
    """Peste et al. (2021): compressed and dense phases in turn."""
    before, now = (_is_compressed(n, state.steps) for n in (step - 1, step))
    if now and not before:
        zeros = round(state.sparsity * state.w.numel())
        _drop(state.mask.fill_(1.0), state.w.abs(), zeros)
        _apply(state)
    elif before and not now:
        state.mask.fill_(1.0)
        state.m.zero_()


def _is_compressed(step: int, steps: int) -> bool:
    within = any(a * steps <= step < b * steps for a, b in COMPRESSED)
    return step >= 0 and (within or step >= steps - 1)


def _drop(mask: Tensor, scores: Tensor, number: int) -> None:
    if number:
        mask[scores.topk(number, largest=False).indices] = 0.0


def _apply(state: Masked) -> None:
    state.w.mul_(state.mask)
    state.m.mul_(state.mask)


METHODS = {
    "dense": Method(),
    "p=1": Method(1.0),
    "p=2": Method(2.0),
    "p=3": Method(3.0),
    "hard": Method(math.inf),
    "gmp": Method(change=gradual),
    "rigl": Method(change=rigl),
    "acdc": Method(change=acdc),
}
