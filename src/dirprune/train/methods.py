"""Training methods by name: each is an optimizer, so that the loop knows none of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dirprune.grda import GRDA
from dirprune.groups import param_groups
from dirprune.train.baselines.masked import (
    MaskedSGD,
    Scores,
    gradual_plan,
    magnitudes,
    one_shot_plan,
    random_scores,
)
from dirprune.train.baselines.prox_sgd import ProxSGD
from dirprune.train.config import TrainConfig
from dirprune.train.names import MASKED

Method = Callable[[TrainConfig, nn.Module, int], Optimizer]


def _sgd(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def _sgd_momentum(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, **_momentum(config)
    )


def _grda(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    groups = param_groups(model, config.prune)
    return GRDA(groups, config.lr, config.c, config.mu, weight_decay=config.weight_decay)


def _grda_momentum(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return GRDA(
        param_groups(model, config.prune),
        config.lr,
        config.c,
        config.mu,
        weight_decay=config.weight_decay,
        **_momentum(config),
    )


def _rda(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    groups = param_groups(model, config.prune)
    return GRDA(groups, config.lr, config.c, mu=1.0, weight_decay=config.weight_decay)


def _prox_sgd(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    groups = param_groups(model, config.prune)
    return ProxSGD(groups, config.lr, config.c, weight_decay=config.weight_decay)


def _gmp(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return _masked(config, model, gradual_plan, magnitudes, total_steps)


def _gmp_momentum(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    momentum = _momentum(config)
    return _masked(config, model, gradual_plan, magnitudes, total_steps, **momentum)


def _magnitude_finetune(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return _masked(config, model, one_shot_plan, magnitudes, total_steps)


def _random(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return _masked(config, model, gradual_plan, random_scores(config.seed), total_steps)


def _masked(
    config: TrainConfig,
    model: nn.Module,
    plan: Callable[[int, float, int], dict[int, int]],
    scores: Scores,
    total_steps: int,
    **momentum: Any,
) -> Optimizer:
    groups = param_groups(model, config.prune)
    for group in groups:
        group["prunable"] = group.pop("c", None) is None  # c=0 marks what gRDA would leave dense
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    zeros = plan(total_steps, config.mask_sparsity, trained)
    decay = config.weight_decay
    return MaskedSGD(groups, config.lr, zeros, scores, weight_decay=decay, **momentum)


def _momentum(config: TrainConfig) -> dict[str, Any]:
    return {"momentum": config.momentum, "nesterov": config.nesterov}


METHODS: dict[str, Method] = {
    "sgd": _sgd,
    "sgd_momentum": _sgd_momentum,
    "grda": _grda,
    "grda_momentum": _grda_momentum,
    "prox_sgd": _prox_sgd,
    "rda": _rda,
    "gmp": _gmp,
    "gmp_momentum": _gmp_momentum,
    "magnitude_finetune": _magnitude_finetune,
    "random": _random,
}
"""How to make each method's optimizer, given the config, the model and the run's steps.

- ``sgd``, ``sgd_momentum``: dense.
- ``grda``, ``grda_momentum``: with ``c`` and ``mu``.
- ``prox_sgd``: the l1 penalty's proximal operator after every step; ``c`` is its weight lambda.
- ``rda``: l1-RDA (Xiao, 2010), which is gRDA with mu = 1: at a constant rate the threshold is
  c lr^1.5 n.
- ``gmp``, ``gmp_momentum``: gradual magnitude pruning (Zhu & Gupta, 2017) to ``sparsity``.
- ``magnitude_finetune``: the smallest weights go at four fifths of the run, the rest is
  fine-tuned.
- ``random``: the schedule of ``gmp``, but what goes is decided by the seed alone.

Magnitudes and random scores are compared over all layers together. The parameters that may become
zero are those that ``prune`` names, for every method; ``sparsity`` is a share of all trainable
parameters.
"""


def build_optimizer(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    """Make the optimizer that ``config.method`` names.

    Args:
        config: The options of the method.
        model: Its parameters are optimised.
        total_steps: Optimizer steps of the whole run.

    Returns:
        An optimizer whose ``state_dict`` holds all that the method remembers.

    Raises:
        ValueError: If there is no such method, or it would ignore an option that is set.
    """
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}: there are {', '.join(METHODS)}")
    _check_heard(config)
    return METHODS[config.method](config, model, total_steps)


def _check_heard(config: TrainConfig) -> None:
    """Refuse options that the method knows nothing of, instead of ignoring them."""
    method = config.method
    heavy, masked = method.endswith("_momentum"), method in MASKED
    if heavy and not config.momentum:
        raise ValueError(f"{method} needs momentum above 0, such as 0.9")
    if config.momentum and not heavy:
        other = f"{method}_momentum"
        hint = f"take method {other}, or " if other in METHODS else ""
        raise ValueError(f"{method} has no momentum, got {config.momentum}: {hint}leave it at 0")
    if config.nesterov and not heavy:
        raise ValueError(
            f"{method} has no momentum, so nesterov means nothing to it: leave it out"
        )
    if config.sparsity is not None and not masked:
        hint = "; target_sparsity finds c" if method.startswith("grda") else ""
        raise ValueError(
            f"sparsity is for {', '.join(MASKED)}, and {method} would ignore it: leave it out"
            f"{hint}"
        )
