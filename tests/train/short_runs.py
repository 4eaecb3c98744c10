"""Short runs of small networks, and helpers that read their files."""

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays

QUIET = Displays()


SHORT = TrainConfig(model="mlp", epochs=2, batch_size=100, method="sgd")


STEPS = 15  # in an epoch: 1437 images, the last batch has 37


MODELS = """
import torch
from torch import nn

def noisy(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(288, num_classes),
    )

class Mortal(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
        self.register_buffer("age", torch.zeros(()))

    def forward(self, x):
        self.age += self.training
        return self.linear(x.flatten(1)) * (float("nan") if self.age > 20 else 1.0)
"""


class Recorder:
    """A display that records its calls and may run a function at some step."""

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.at, self.act = at, act
        self.steps: list[int] = []
        self.epochs: list[Mapping[str, Any]] = []
        self.stopped = 0

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        self.started = (total, steps_per_epoch, step)

    def step(self, step: int) -> None:
        self.steps.append(step)
        if step == self.at:
            self.act()

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.epochs.append(record)

    def stop(self) -> None:
        self.stopped += 1


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model.safetensors")


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def models_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
