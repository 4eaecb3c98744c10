import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from dirprune.train.config import TrainConfig
from dirprune.train.display import ConsoleDisplay, TensorBoard, epoch_line
from dirprune.train.loop import train

CONFIG = TrainConfig(data="imagefolder:[b]:x:", epochs=600, validation=0.1)
RECORD = {
    "epoch": 599,
    "step": 100,
    "train_loss": 12.3456,
    "train_accuracy": 1.0,
    "test_accuracy": 0.98765,
    "validation_accuracy": 1.0,
    "sparsity": 0.99999,
    "seconds": 3599.0,
}


def shown(*, terminal: bool) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=50, force_terminal=terminal, color_system=None)
    display = ConsoleDisplay(console)
    display.start(CONFIG, 15_245_130, 50, 0)
    for step in range(1, 60):
        display.step(step)
    display.epoch(RECORD)
    display.stop()
    return file.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_per_epoch() -> None:
    lines = shown(terminal=False)
    assert lines == [
        "convnet on imagefolder:[b]:x:, grda, seed 1",
        "zeros: share of 15,245,130 trainable parameters",
        "  epoch    loss  train   test  valid  zeros   time",
        "599/600 12.3456 100.0% 98.77% 100.0% 100.0%  59:59",
    ]
    assert max(map(len, lines)) <= 50
    assert len(lines[2]) == len(lines[3])


def test_without_a_terminal_a_long_epoch_reports_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("dirprune.train.display.time.monotonic", lambda: now)
    file = io.StringIO()
    display = ConsoleDisplay(Console(file=file, width=50))
    display.start(CONFIG, 10, 50, 0)
    for step in range(1, 60):
        now += 4.0
        display.step(step)
    lines = file.getvalue().splitlines()[3:]
    assert lines == [f"{n:>3}/600 step {k} of 50" for n, k in [(1, 15), (1, 30), (1, 45)]]
    display.epoch(RECORD)
    now += 4.0
    display.step(61)
    assert file.getvalue().splitlines()[-1].startswith("599/600")


def test_a_resumed_run_shows_its_first_epoch() -> None:
    file = io.StringIO()
    ConsoleDisplay(Console(file=file, width=50)).start(CONFIG, 10, 50, 120)
    assert "resumes after step 120 of 30,000" in file.getvalue()


def test_validation_has_a_column_only_if_it_is_used() -> None:
    line = epoch_line(RECORD | {"validation_accuracy": None}, 600)
    assert line == "599/600 12.3456 100.0% 98.77% 100.0%  59:59"


def test_in_a_terminal_there_are_bars_too() -> None:
    lines = shown(terminal=True)
    assert any("599/600" in line for line in lines)
    run = [line for line in lines if "run " in line][-1]
    epoch = [line for line in lines if "epoch 2 " in line][-1]
    assert " 59/30000 " in run
    assert "━" in epoch
    assert " 9/50 " in epoch
    assert len(epoch) <= 50


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (7325.0, "122:05")]
)
def test_times_are_readable(seconds: float, text: str) -> None:
    assert epoch_line(RECORD | {"seconds": seconds}, 600).endswith(f" {text}")


@pytest.mark.parametrize("jump", [0, -3600], ids=["same second", "clock set back"])
def test_a_resumed_run_replaces_repeated_epochs(
    jump: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(start: int, figures: dict[int, float]) -> None:
        board = TensorBoard(tmp_path)
        board.start(CONFIG, 10, 10, start)
        for step, loss in figures.items():
            board.epoch({"epoch": step // 10, "step": step, "train_loss": loss, "forecast": None})
        board.stop()

    now = time.time()
    show(0, {10: 1.0, 20: 0.9, 30: 0.8})
    monkeypatch.setattr("dirprune.train.display.time.time", lambda: now + jump)
    show(20, {30: 0.7})
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, round(event.value, 5)) for event in events.Scalars("train_loss")]
    assert found == [(10, 1.0), (20, 0.9), (30, 0.7)]


def test_the_library_logs_and_prints_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO", logger="dirprune"):
        train(TrainConfig(model="mlp", width=0.05, epochs=2, batch_size=200), tmp_path / "run")
    assert "mlp on digits, grda, from step 0" in caplog.text
    assert sum("/2 " in message for message in caplog.messages) == 2
    assert capfd.readouterr() == ("", "")
