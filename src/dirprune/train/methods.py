"""Training methods by name: each is an optimizer, so that the loop knows none of them."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from dirprune.grda import GRDA, param_groups
from dirprune.train.config import TrainConfig


def _sgd(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def _sgd_momentum(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
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
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


METHODS: dict[str, Callable[[TrainConfig, nn.Module, int], Optimizer]] = {
    "sgd": _sgd,
    "sgd_momentum": _sgd_momentum,
    "grda": _grda,
    "grda_momentum": _grda_momentum,
}
"""How to make each method's optimizer, given the config, the model and the run's steps."""


def build_optimizer(config: TrainConfig, model: nn.Module, total_steps: int) -> Optimizer:
    """Make the optimizer that ``config.method`` names.

    Args:
        config: The options of the method.
        model: Its parameters are optimised.
        total_steps: Optimizer steps of the whole run.

    Returns:
        An optimizer whose ``state_dict`` holds all that the method remembers.

    Raises:
        ValueError: If there is no such method.
    """
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}: there are {', '.join(METHODS)}")
    return METHODS[config.method](config, model, total_steps)
