"""The law of the threshold, compared with published values and a plain sum."""

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from dirprune import GRDA, threshold_path
from dirprune.threshold import threshold_increment


def published_rates(epochs: int, steps: int, lr: float = 0.1) -> list[float]:
    """The paper's CIFAR schedule: constant to half, linear to 1 % at 90 %."""
    rates = []
    for epoch in range(1, epochs + 1):
        alpha = epoch / epochs
        factor = 1.0 if alpha <= 0.5 else max(1 - 0.99 * (alpha - 0.5) / 0.4, 0.01)
        rates += [lr * factor] * steps
    return rates


@pytest.mark.parametrize(
    ("epochs", "c", "mu", "first_epoch", "last"),
    [
        (600, 5e-4, 0.4, 0.00068524, 0.007707),
        (600, 5e-4, 0.51, 0.0010256, 0.022265),
        (600, 5e-4, 0.6, 0.0014265, 0.052946),
        (600, 5e-4, 0.7, 0.0020582, 0.1384),
        (200, 1e-3, 0.501, None, 0.0235),
        (200, 1e-3, 0.65, None, 0.0837),
    ],
)
def test_published_settings(
    epochs: int, c: float, mu: float, first_epoch: float | None, last: float
) -> None:
    path = threshold_path(c, mu, published_rates(epochs, 391))
    assert float(path[-1]) == pytest.approx(last, rel=3e-3)
    if first_epoch is not None:
        assert float(path[390]) == pytest.approx(first_epoch, rel=1e-3)


def test_path_is_the_running_sum_of_increments_and_skips_pauses() -> None:
    rates = [0.1, 0.0, 0.2, 0.05, 0.0, 0.3]
    n, g, expected = 0, 0.0, []
    for lr in rates:
        if lr > 0:
            n += 1
            g += threshold_increment(n, lr, 0.3, 0.7)
        expected.append(g)
    path = threshold_path(0.3, 0.7, rates)
    torch.testing.assert_close(path, torch.tensor(expected, dtype=torch.float64))


def test_increments_stay_accurate_after_ten_million_steps() -> None:
    n, mu = 10**7, 0.6
    exact = -(n**mu) * math.expm1(mu * math.log1p(-1 / n))
    assert threshold_increment(n, 1.0, 1.0, mu) == pytest.approx(exact, rel=1e-6)


def test_walking_a_scheduler_does_not_change_it() -> None:
    optimizer = GRDA([nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10)
    before = dict(scheduler.state_dict()), optimizer.param_groups[0]["lr"]
    threshold_path(0.1, 0.5, scheduler, steps=10)
    assert (scheduler.state_dict(), optimizer.param_groups[0]["lr"]) == before


def test_bad_input_is_refused() -> None:
    optimizer = GRDA([nn.Parameter(torch.ones(2))])
    for arguments, message in [
        ((-1.0, 0.5, [0.1]), "c must be at least 0"),
        ((math.nan, 0.5, [0.1]), "c must be at least 0"),
        ((1.0, 0.0, [0.1]), "mu must lie"),
        ((1.0, 0.5, [0.1, -0.1]), "every rate"),
        ((1.0, 0.5, [math.nan]), "every rate"),
        ((1.0, 0.5, [0.1], 3), "is only for a scheduler"),
        ((1.0, 0.5, lr_scheduler.ConstantLR(optimizer)), "a scheduler needs steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            threshold_path(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ReduceLROnPlateau"):
        threshold_path(1.0, 0.5, lr_scheduler.ReduceLROnPlateau(optimizer), 5)
