from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from dirprune.models import build
from dirprune.threshold import threshold_path
from dirprune.train.config import TrainConfig
from dirprune.train.recipes import (
    RECIPES,
    ImageNetSchedule,
    get_recipe,
    paper_rows,
    published,
    resnet50_imagenet,
    vgg16_cifar10,
    wrn28x10_cifar10,
    wrn28x10_cifar100,
)
from dirprune.train.schedule import learning_rates

CIFAR, IMAGENET = -(-50_000 // 128), -(-1_281_167 // 256)  # steps per epoch


@cache
def rates(config: TrainConfig, steps_per_epoch: int) -> Tensor:
    return torch.tensor(learning_rates(config, steps_per_epoch), dtype=torch.float64)


def final_threshold(config: TrainConfig, steps_per_epoch: int) -> float:
    path = rates(replace(config, mu=0.5, c=0.005), steps_per_epoch)  # which do not matter for it
    return float(threshold_path(config.c, config.mu, path)[-1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "steps", "published_g"),
    [
        *((vgg16_cifar10(mu), CIFAR, g) for mu, g in ((0.4, 0.0077), (0.51, 0.0223))),
        *((vgg16_cifar10(mu), CIFAR, g) for mu, g in ((0.6, 0.0529), (0.7, 0.138))),
        *((wrn28x10_cifar10(mu), CIFAR, g) for mu, g in ((0.501, 0.0235), (0.55, 0.0357))),
        *((wrn28x10_cifar100(mu), CIFAR, g) for mu, g in ((0.6, 0.0547), (0.65, 0.0837))),
        (resnet50_imagenet("140", 0.501), IMAGENET, 0.425),
        (resnet50_imagenet("140", 0.51), IMAGENET, 0.470),
        (resnet50_imagenet("140", 0.55), IMAGENET, 0.734),
        (resnet50_imagenet("140", 0.7), IMAGENET, 3.91),
        (resnet50_imagenet("30", 0.7), IMAGENET, 1.381),
        (resnet50_imagenet("30", 0.85), IMAGENET, 5.82),
    ],
)
def test_final_thresholds_equal_the_papers(
    config: TrainConfig, steps: int, published_g: float
) -> None:
    assert final_threshold(config, steps) == pytest.approx(published_g, rel=0.01)


def test_rates_decrease_at_the_papers_epochs() -> None:
    def per_epoch(schedule: str) -> list[float]:
        return learning_rates(resnet50_imagenet(schedule), 1)  # type: ignore[arg-type]

    assert set(per_epoch("fixed")) == {0.1}
    assert per_epoch("140") == pytest.approx([0.1] * 140 + [0.01] * 10)
    steps = [0.1] * 30 + [0.01] * 30 + [0.001] * 30 + [0.0001] * 5
    assert per_epoch("30") == pytest.approx(steps)
    vgg = learning_rates(vgg16_cifar10(), 1)
    assert vgg[:300] == [0.1] * 300
    assert vgg[539:] == pytest.approx([0.001] * 61)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name: str) -> None:
    config = get_recipe(name)
    kind = config.data.partition(":")[0]
    classes, channels, side = {
        "digits": (10, 1, 8),
        "fashion-mnist": (10, 1, 28),
        "cifar10": (10, 3, 32),
        "cifar100": (100, 3, 32),
        "imagenet": (1000, 3, 224),
    }[kind]
    if name == "wrn28x10_cifar10" or name == "wrn28x10_cifar100":
        config = replace(config, width=0.1)  # full width is built in test_models
    build(
        config.model,
        num_classes=classes,
        channels=channels,
        size=(side, side),
        width=config.width,
    )


def test_unknown_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match="use one of vgg16_cifar10, "):
        get_recipe("vgg")


def test_published_figures_ignore_irrelevant_settings() -> None:
    config = replace(wrn28x10_cifar10(0.55), seed=3, device="cpu", data="cifar10:/data")
    assert published(config) == {"test_accuracy": 0.94433, "sparsity": 0.94744}
    assert published(replace(config, method="sgd", c=0.2, mu=0.9)) == {
        "test_accuracy": 0.94173,
        "sparsity": 0.0,
    }
    others = ({"epochs": 100}, {"mu": 0.56}, {"width": 0.25}, {"data": "digits"}, {"lr": 0.2})
    for other in others:
        assert published(replace(config, **other)) is None  # type: ignore[arg-type]


def test_recipes_and_the_report_have_the_same_figures() -> None:
    rows = list(paper_rows())
    assert len(rows) == len({config for config, _ in rows}) == 4 + 5 + 4 + 3 + 7 + 11 + 4
    for config, point in rows:
        assert published(config) == {
            "test_accuracy": point.test_accuracy,
            "sparsity": point.sparsity,
        }
    fixed = published(resnet50_imagenet("fixed", 0.51))
    assert fixed == {"test_accuracy": 0.7035, "sparsity": 0.8738}
    steps = published(resnet50_imagenet("30", 0.75, 0.002))
    assert steps == {"test_accuracy": 0.67234, "sparsity": 0.97059}


@pytest.mark.parametrize(
    ("schedule", "mu", "c", "accuracy", "zeros"),
    [
        ("fixed", 0.501, 0.005, 70.60, 86.0),
        ("fixed", 0.51, 0.005, 70.35, 87.4),
        ("fixed", 0.55, 0.005, 69.76, 91.5),
        ("140", 0.501, 0.005, 73.13, 86.1),
        ("140", 0.51, 0.005, 73.14, 87.3),
        ("140", 0.55, 0.005, 73.24, 91.6),
        ("140", 0.6, 0.005, 72.16, 95.0),
        ("140", 0.65, 0.005, 70.04, 97.1),
        ("140", 0.7, 0.005, 65.51, 98.2),
        ("140", 0.4, 0.01, 72.75, 79.7),
    ],
)
def test_the_points_of_resnet50_are_those_of_the_paper(
    schedule: ImageNetSchedule, mu: float, c: float, accuracy: float, zeros: float
) -> None:
    found = published(resnet50_imagenet(schedule, mu, c))
    assert found is not None
    assert 100 * found["test_accuracy"] == pytest.approx(accuracy, abs=0.0051)
    assert 100 * found["sparsity"] == pytest.approx(zeros, abs=0.051)
