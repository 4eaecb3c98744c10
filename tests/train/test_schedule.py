"""Learning rates, compared with manual values of the paper's rule and torch's schedulers."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from dirprune.train.config import TrainConfig
from dirprune.train.schedule import learning_rates


def test_piecewise_values_by_hand() -> None:
    rates = learning_rates(TrainConfig(lr=0.1, epochs=10, schedule="piecewise"), 1)
    by_hand = [0.1] * 5 + [0.07525, 0.0505, 0.02575, 0.001, 0.001]
    assert rates == pytest.approx(by_hand, rel=1e-12)


def test_piecewise_is_set_once_per_epoch() -> None:
    rates = learning_rates(TrainConfig(epochs=20, schedule="piecewise"), 7)
    assert len(rates) == 140
    for epoch in range(20):
        assert len(set(rates[7 * epoch : 7 * epoch + 7])) == 1


@pytest.mark.parametrize("epochs", [200, 600])
def test_piecewise_rates_of_the_papers_runs(epochs: int) -> None:
    rates = learning_rates(TrainConfig(lr=0.1, epochs=epochs, schedule="piecewise"), 1)
    assert rates[epochs // 2 - 1] == 0.1
    assert rates[epochs // 2] < 0.1
    assert rates[epochs * 9 // 10 - 1] == pytest.approx(0.001, rel=1e-12)
    assert rates[epochs * 9 // 10 :] == pytest.approx([0.001] * (epochs // 10), rel=1e-12)


def test_constant() -> None:
    assert learning_rates(TrainConfig(lr=0.3, epochs=2, schedule="constant"), 3) == [0.3] * 6


def test_steps_of_resnet50_in_the_paper() -> None:
    config = TrainConfig(lr=0.1, epochs=180, schedule="steps", lr_steps=(140 / 180,))
    rates = learning_rates(config, 2)
    assert rates[:280] == [0.1] * 280
    assert rates[280:] == pytest.approx([0.01] * 80)


def test_steps_agree_with_torch() -> None:
    config = TrainConfig(lr=0.1, epochs=90, schedule="steps")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = _run(optimizer, MultiStepLR(optimizer, [30, 60]), 90)
    assert learning_rates(config, 1) == pytest.approx(expected, rel=1e-12)


def test_cosine_agrees_with_torch() -> None:
    config = TrainConfig(lr=0.1, epochs=5, schedule="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = _run(optimizer, CosineAnnealingLR(optimizer, 20), 20)
    assert learning_rates(config, 4) == pytest.approx(expected, rel=1e-9)


def test_warmup_increases_linearly_to_the_rate_of_the_schedule() -> None:
    config = TrainConfig(lr=0.4, epochs=6, schedule="constant", warmup_epochs=2)
    rates = learning_rates(config, 4)
    assert rates[:9] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.4])


def test_warmup_multiplies_the_schedule() -> None:
    plain = learning_rates(TrainConfig(epochs=6, schedule="cosine"), 4)
    warm = learning_rates(TrainConfig(epochs=6, schedule="cosine", warmup_epochs=1), 4)
    assert warm == pytest.approx([plain[0] / 4, plain[1] / 2, plain[2] * 3 / 4, *plain[3:]])


def test_an_epoch_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0: lower batch_size"):
        learning_rates(TrainConfig(), 0)


def _run(
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    steps: int,
) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates
