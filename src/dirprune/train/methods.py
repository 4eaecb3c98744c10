"""Training methods by name. Each is an optimizer, so the training loop does not depend on them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dirprune.adam_grda import AdamGRDA
from dirprune.grda import GRDA
from dirprune.groups import param_groups
from dirprune.plan import SparsityPlan
from dirprune.quantile import magnitudes
from dirprune.train.baselines.acdc import ACDC
from dirprune.train.baselines.masked import (
    MaskedSGD,
    ScoreFunction,
    gradual_plan,
    one_shot_plan,
    random_scores,
)
from dirprune.train.baselines.prox_sgd import ProxSGD
from dirprune.train.baselines.rigl import RigL
from dirprune.train.config import TrainConfig
from dirprune.train.names import MASKED

PLANNED = ("grda", "grda_momentum", "adam_grda")
"""Methods that take a target_sparsity."""
MINIMUM = 2
"""Minimum number of nonzero weights per tensor under a plan."""

Method = Callable[[TrainConfig, nn.Module, int], Optimizer]


def _sgd(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=config.lr, **_sgd_options(config))


def _adamw(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)


def _grda(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return GRDA(
        param_groups(model, config.prune),
        config.lr,
        config.c,
        config.mu,
        plan=target_plan(config, model, total_steps),
        power=config.power,
        **_sgd_options(config),
    )


def _adam_grda(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return AdamGRDA(
        param_groups(model, config.prune),
        config.lr,
        c=config.c,
        mu=config.mu,
        plan=target_plan(config, model, total_steps),
        power=config.power,
        weight_decay=config.weight_decay,
    )


def _hard(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    hard = replace(config, target_sparsity=config.mask_sparsity, power=math.inf)
    return _grda(hard, model, total_steps)


def _rigl(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return RigL(*_sparse(config, model), total_steps, seed=config.seed, **_sgd_options(config))


def _acdc(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return ACDC(*_sparse(config, model), total_steps, **_sgd_options(config))


def _sparse(config: TrainConfig, model: nn.Module) -> tuple[list[dict[str, Any]], float, int]:
    """The groups, the rate and the number of zeros."""
    zeros = round(config.mask_sparsity * trainable(model))
    return _prunable_groups(config, model), config.lr, zeros


def _rda(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    groups = param_groups(model, config.prune)
    return GRDA(groups, config.lr, config.c, mu=1.0, weight_decay=config.weight_decay)


def _prox_sgd(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    groups = param_groups(model, config.prune)
    return ProxSGD(groups, config.lr, config.c, weight_decay=config.weight_decay)


def _gmp(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return _masked(config, model, gradual_plan, magnitudes, total_steps)


def _magnitude_finetune(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return _masked(config, model, one_shot_plan, magnitudes, total_steps)


def _random(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return _masked(config, model, gradual_plan, random_scores(config.seed), total_steps)


def _masked(
    config: TrainConfig,
    model: nn.Module,
    plan: Callable[[int, float, int], dict[int, int]],
    scores: ScoreFunction,
    total_steps: int,
) -> Optimizer:
    zeros = plan(total_steps, config.mask_sparsity, trainable(model))
    groups = _prunable_groups(config, model)
    return MaskedSGD(groups, config.lr, zeros, scores, **_sgd_options(config))


def _prunable_groups(config: TrainConfig, model: nn.Module) -> list[dict[str, Any]]:
    groups = param_groups(model, config.prune)
    for group in groups:
        group["prunable"] = group.pop("c", None) is None  # c=0 marks groups that stay dense
    return groups


def trainable(model: nn.Module) -> int:
    """Count the trainable parameters, the denominator of every sparsity here."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def target_plan(config: TrainConfig, model: nn.Module, total_steps: int) -> SparsityPlan | None:
    r"""Plan the sparsity of the prunable parameters that gives the target, if any, over all.

    .. math:: s_{plan} = s \\, N_{trainable} / N_{pruned}

    Raises:
        ValueError: If the target needs more zeros than there are prunable parameters.
    """
    if config.target_sparsity is None:
        return None
    groups = [g for g in param_groups(model, config.prune) if g.get("c") != 0]
    sizes = [p.numel() for group in groups for p in group["params"] if p.requires_grad]
    total, pruned = trainable(model), sum(sizes)
    zeros = round(config.target_sparsity * total)
    most = pruned - sum(min(MINIMUM, size) for size in sizes)
    if zeros > most:
        advice = "" if config.prune == "all" else ", or prune all parameters (--prune all)"
        raise ValueError(
            f"target_sparsity {config.target_sparsity} means {zeros:,} zeros, but at most "
            f"{most:,} of {total:,} trainable parameters can be zero: give at most "
            f"{math.floor(1e4 * most / total) / 1e4}{advice}"
        )
    return SparsityPlan(
        zeros / pruned,
        total_steps,
        begin=config.plan_begin,
        end=config.plan_end,
        minimum=MINIMUM,
    )


def _sgd_options(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("weight_decay", "momentum", "nesterov")}


METHODS: dict[str, Method] = {
    "sgd": _sgd,
    "sgd_momentum": _sgd,
    "adamw": _adamw,
    "grda": _grda,
    "grda_momentum": _grda,
    "adam_grda": _adam_grda,
    "prox_sgd": _prox_sgd,
    "rda": _rda,
    "gmp": _gmp,
    "gmp_momentum": _gmp,
    "hard": _hard,
    "rigl": _rigl,
    "acdc": _acdc,
    "magnitude_finetune": _magnitude_finetune,
    "random": _random,
}
"""Functions that make each method's optimizer from the config, the model and the run's steps.

- ``sgd``, ``sgd_momentum``, ``adamw``: dense.
- ``grda``, ``grda_momentum``, ``adam_grda``: with ``c`` and ``mu``, or with ``target_sparsity``.
- ``prox_sgd``: the l1 penalty's proximal operator after every step; ``c`` is its weight lambda.
- ``rda``: l1-RDA (Xiao, 2010), which is gRDA with mu = 1: at a constant learning rate the
  threshold is c lr^1.5 n.
- ``gmp``, ``gmp_momentum``: gradual magnitude pruning (Zhu & Gupta, 2017) to ``sparsity``.
- ``hard``: gRDA with a plan to ``sparsity`` and the hard threshold, known as dynamic pruning with
  feedback (Lin et al., 2020).
- ``rigl``: a sparse network from the start whose connections change (Evci et al., 2020).
- ``acdc``: alternating compressed and dense phases (Peste et al., 2021).
- ``magnitude_finetune``: the smallest weights are pruned at four fifths of the run, then the
  others are fine-tuned.
- ``random``: the schedule of ``gmp``, but the pruned weights are chosen at random.

Magnitudes and random scores are compared over all layers together. For every method, only the
parameters selected by ``prune`` can become zero; ``sparsity`` is a share of all trainable
parameters.
"""


def build_optimizer(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    """Make the optimizer that ``config.method`` names.

    Returns:
        An optimizer whose ``state_dict`` holds the complete state of the method.

    Raises:
        ValueError: If the method is unknown, or it would ignore an option that is set.
    """
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}: use one of {', '.join(METHODS)}")
    check_options_apply(config)
    return METHODS[config.method](config, model, total_steps)


def check_options_apply(config: TrainConfig) -> None:
    """Refuse options that the method would ignore.

    Raises:
        ValueError: If there is such an option; the message says what to do.
    """
    method = config.method
    named, optional = method.endswith("_momentum"), method in ("hard", "rigl", "acdc")
    if named and not config.momentum:
        raise ValueError(f"{method} needs momentum above 0, such as 0.9")
    if config.momentum and not named and not optional:
        other = f"{method}_momentum"
        hint = f"use method {other}, or " if other in METHODS else ""
        raise ValueError(f"{method} has no momentum, got {config.momentum}: {hint}leave it at 0")
    if config.nesterov and not config.momentum:
        raise ValueError(f"nesterov needs momentum, and {method} has none: remove nesterov")
    if config.sparsity is not None and method not in MASKED:
        hint = "; use target_sparsity" if method in PLANNED else ""
        raise ValueError(
            f"sparsity is for {', '.join(MASKED)}, and {method} would ignore it: remove it{hint}"
        )
    for name in ("target_sparsity", "power"):
        if getattr(config, name) is not None and method not in PLANNED:
            hint = "; use sparsity" if method in MASKED and name == "target_sparsity" else ""
            raise ValueError(
                f"{name} is for {', '.join(PLANNED)}, and {method} would ignore it: remove it"
                f"{hint}"
            )
