"""`dirprune train --device cuda` in every precision, and bit-identical resuming."""

from pathlib import Path

import pytest
import torch

from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Interrupted
from dirprune.train.loop import train
from stop_at import StopAt


def config(
    precision: str = "float32", method: str = "grda_momentum", epochs: int = 2
) -> TrainConfig:
    return TrainConfig(
        method=method,
        epochs=epochs,
        batch_size=100,
        lr=0.05,
        momentum=0.9 if method == "grda_momentum" else 0.0,
        precision=precision,
        device="cuda",
        schedule="cosine",
    )


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16", "float16"])
def test_training_in_every_precision(tmp_path: Path, precision: str) -> None:
    summary = train(config(precision, epochs=4), tmp_path / "run", display=Displays())
    assert summary["status"] == "finished"
    assert summary["test_accuracy"] > 0.8
    assert summary["sparsity"] > 0


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("method", ["grda", "grda_momentum"])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, method: str, deterministic: None) -> None:
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    train(config(method=method), uninterrupted, display=Displays())
    for i, step in enumerate((4, 20)):
        with pytest.raises(Interrupted):
            train(config(method=method), interrupted, resume=i > 0, display=StopAt(step))
    train(config(method=method), interrupted, resume=True, display=Displays())
    a, b = ((folder / "model.safetensors").read_bytes() for folder in (uninterrupted, interrupted))
    assert a == b
