"""The methods of the comparison: each trains a network and returns the one that is evaluated."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from network import EXAMPLE, multiply_adds
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import SGD, Optimizer

from dirprune import GRDA, SparsityPlan
from dirprune.deploy import channel_blocks, channel_costs, shrink

sys.path.append(str(Path(__file__).parents[1] / "sparsity"))
from problems import rate

END = 0.75
"""Share of the run after which a plan's sparsity is reached."""
OPTIONS: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}

Batches = Iterator[tuple[Tensor, Tensor]]
Hook = Callable[[], None]


def factors(steps: int, schedule: str) -> list[float]:
    """The learning rate of every step: one cosine, or "two" equal ones."""
    if schedule == "one":
        return [rate(step, steps) for step in range(steps)]
    half = steps // 2
    return [rate(step % half, half) for step in range(steps)]


def train(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Batches,
    rates: Iterable[float],
    after_backward: Hook = lambda: None,
    after_step: Hook = lambda: None,
) -> None:
    """Take one step per rate."""
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    base = [group["lr"] for group in optimizer.param_groups]
    for factor in rates:
        x, y = next(batches)
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * factor
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        after_backward()
        optimizer.step()
        after_step()
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = lr


def train_dense(
    model: nn.Module, lr: float, batches: Batches, steps: int, schedule: str
) -> nn.Module:
    """Train without pruning."""
    train(model, SGD(model.parameters(), lr, **OPTIONS), batches, factors(steps, schedule))
    return model


# Channels


def train_channels(
    model: nn.Module,
    lr: float,
    batches: Batches,
    steps: int,
    power: float,
    sparsity: float,
    by_costs: bool,
) -> nn.Module:
    """Train with a channels plan, for entries or for multiply-adds, and shrink the network."""
    blocks = [
        [(model.get_parameter(name), dim, index) for name, dim, index in block]
        for block in channel_blocks(model, torch.zeros(EXAMPLE))
    ]
    planned = {id(p): p for block in blocks for p, _, _ in block}
    others = [p for p in model.parameters() if id(p) not in planned]
    costs = channel_costs(model, torch.zeros(EXAMPLE)) if by_costs else None
    plan = SparsityPlan(sparsity, steps, end=END, structure="channels", blocks=blocks, costs=costs)
    groups = [{"params": list(planned.values())}, {"params": others, "plan": None, "c": 0.0}]
    optimizer = GRDA(groups, lr=lr, plan=plan, power=power, **OPTIONS)
    train(model, optimizer, batches, factors(steps, "one"))
    return shrink(model, torch.zeros(EXAMPLE))


def train_torch_pruning(
    model: nn.Module,
    lr: float,
    batches: Batches,
    steps: int,
    schedule: str,
    share: float,
    sparse_training: bool,
) -> nn.Module:
    """Train half of the steps, remove channels with Torch-Pruning, and fine-tune."""
    import torch_pruning  # the other methods and the tables do not need it

    common: dict[str, Any] = {
        "example_inputs": torch.zeros(EXAMPLE), "global_pruning": True, "pruning_ratio": 1.0,
        "max_pruning_ratio": 0.9, "iterative_steps": 200, "ignored_layers": [model[-1]],
    }  # fmt: skip
    importance = torch_pruning.importance.GroupMagnitudeImportance
    if sparse_training:
        pruner = torch_pruning.pruner.GroupNormPruner(
            model, importance=importance(p=2, normalizer="max"), reg=5e-4, **common
        )
        pruner.update_regularizer()
    else:
        pruner = torch_pruning.pruner.BasePruner(model, importance=importance(p=2), **common)
    first, second = halves(steps, schedule)
    optimizer = SGD(model.parameters(), lr, **OPTIONS)
    hook = (lambda: pruner.regularize(model)) if sparse_training else (lambda: None)
    train(model, optimizer, batches, first, after_backward=hook)
    budget = share * multiply_adds(model)
    while multiply_adds(model) > budget and pruner.current_step < pruner.iterative_steps:
        pruner.step()
    train(model, SGD(model.parameters(), lr, **OPTIONS), batches, second)
    return model


def halves(steps: int, schedule: str) -> tuple[list[float], list[float]]:
    """The rates of both phases."""
    both = factors(steps, schedule)
    return both[: steps // 2], both[steps // 2 :]


# 2:4


def two_four_parameters(model: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """Layers, and their weights, with an input dimension that is divisible by four."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return [(m, m.weight) for m in layers if m.weight.shape[1] % 4 == 0]


def two_four_mask(w: Tensor) -> Tensor:
    """True for the two largest magnitudes of every four along dimension 1."""
    rows = w.detach().movedim(1, -1)
    fours = rows.reshape(*rows.shape[:-1], -1, 4).abs()
    kept = torch.zeros_like(fours, dtype=torch.bool)
    kept.scatter_(-1, fours.topk(2, dim=-1).indices, True)
    return kept.reshape(rows.shape).movedim(-1, 1)


def train_two_four(
    model: nn.Module, lr: float, batches: Batches, steps: int, power: float
) -> nn.Module:
    """Train with a 2:4 plan."""
    planned = [w for _, w in two_four_parameters(model)]
    others = [p for p in model.parameters() if all(p is not w for w in planned)]
    plan = SparsityPlan(0.5, steps, end=END, structure="2:4")
    groups = [{"params": planned}, {"params": others, "plan": None, "c": 0.0}]
    optimizer = GRDA(groups, lr=lr, plan=plan, power=power, **OPTIONS)
    train(model, optimizer, batches, factors(steps, "one"))
    return model


def train_one_shot(
    model: nn.Module, lr: float, batches: Batches, steps: int, schedule: str
) -> nn.Module:
    """Train half of the steps, fix a 2:4 mask by magnitude, and fine-tune."""
    first, second = halves(steps, schedule)
    train(model, SGD(model.parameters(), lr, **OPTIONS), batches, first)
    weights = [w for _, w in two_four_parameters(model)]
    masks = [two_four_mask(w) for w in weights]

    def prune() -> None:
        with torch.no_grad():
            for w, mask in zip(weights, masks, strict=True):
                w.masked_fill_(~mask, 0.0)

    prune()
    train(model, SGD(model.parameters(), lr, **OPTIONS), batches, second, after_step=prune)
    return model


class _MaskedByMagnitude(torch.autograd.Function):
    """w times its 2:4 mask; the gradient passes unchanged, plus a decay of the pruned weights."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        mask = two_four_mask(w)
        ctx.save_for_backward(w, mask)
        return w * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        w, mask = ctx.saved_tensors
        return gradient + 2e-4 * w * ~mask


class _SrSte(nn.Module):
    """The parametrisation of SR-STE (Zhou et al., 2021, https://arxiv.org/abs/2102.04010)."""

    def forward(self, w: Tensor) -> Tensor:
        """Return the masked weights."""
        return _MaskedByMagnitude.apply(w)


def train_sr_ste(model: nn.Module, lr: float, batches: Batches, steps: int) -> nn.Module:
    """Train dense weights through 2:4 masks."""
    layers = [layer for layer, _ in two_four_parameters(model)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _SrSte())
    train_dense(model, lr, batches, steps, "one")
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    return model
