"""The learning rate of every step of a run, as a list."""

import math

from dirprune.train.config import TrainConfig


def learning_rates(config: TrainConfig, steps_per_epoch: int) -> list[float]:
    r"""Compute the learning rate of every step of the run.

    With :math:`\alpha = e / E` for epoch :math:`e = 1 \dots E`, and step
    :math:`t = 0 \dots T - 1`, the initial rate is multiplied by

    .. math::
        \text{piecewise:} \quad & 1 \text{ if } \alpha \leq .5; \quad
            1 - .99 (\alpha - .5) / .4 \text{ if } \alpha \leq .9; \quad .01 \text{ after} \\
        \text{steps:} \quad & 10^{-\#\{s \in \text{lr\_steps} : \alpha > s\}} \\
        \text{cosine:} \quad & (1 + \cos(\pi t / T)) / 2

    and in the first :math:`W` = ``warmup_epochs * steps_per_epoch`` steps also by
    :math:`(t + 1) / W`. All except the cosine and the warm-up change only between epochs.

    Args:
        config: Its ``schedule``, ``lr``, ``lr_steps``, ``epochs`` and ``warmup_epochs`` are read.
        steps_per_epoch: Optimizer steps per epoch, at least 1.

    Returns:
        ``config.epochs * steps_per_epoch`` learning rates.

    Raises:
        ValueError: If an epoch has no steps.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020),
        https://arxiv.org/abs/2006.09358: the piecewise schedule is that of its code for CIFAR;
        its ResNet-50 uses a constant rate or steps.

    Example:
        >>> learning_rates(TrainConfig(lr=1.0, epochs=4, schedule="steps", lr_steps=(0.5,)), 1)
        [1.0, 1.0, 0.1, 0.1]
    """
    if steps_per_epoch < 1:
        raise ValueError(
            f"an epoch needs at least 1 step, got {steps_per_epoch}: lower batch_size"
        )
    steps = config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    rates = []
    for step in range(steps):
        alpha = (step // steps_per_epoch + 1) / config.epochs
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        rates.append(config.lr * warmup * _factor(config, alpha, step / steps))
    return rates


def _factor(config: TrainConfig, alpha: float, progress: float) -> float:
    if config.schedule == "piecewise":
        return 1.0 if alpha <= 0.5 else max(0.01, 1 - 0.99 * (alpha - 0.5) / 0.4)
    if config.schedule == "steps":
        return 0.1 ** sum(alpha > step for step in config.lr_steps)
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0
