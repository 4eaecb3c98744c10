"""The printed tables can be read in a narrow terminal, and sizes have one format."""

from collections.abc import Callable
from typing import Any

import pytest

from dirprune.cli.printing import print_exports, print_runs, print_trials
from dirprune.deploy.file.io import Saved
from dirprune.study.tune import Trial, TuneResult
from dirprune.train.config import TrainConfig

SUMMARY = {
    "test_accuracy": 0.98765,
    "sparsity": 0.91827,
    "nonzeros": 14_728_266,
    "seconds_per_epoch": 123.45,
    "weights_zstd_bytes": 51_040,
}
EXPORT = {
    "file_bytes": 8_812_345,
    "dense_bytes": 102_230_000,
    "latency_ms": {"torch": 63.4, "dirprune": 21.1},
}
RUNS = ["98.77%", "91.83%", "14,728,266", "51.0 kB", "test accuracy", "weights after zstd"]
EXPORTS = ["8.8 MB", "102.2 MB", "63.400 ms", "21.100 ms", "dirprune"]


def runs(*names: str) -> Callable[[], None]:
    return lambda: print_runs(dict.fromkeys(names, SUMMARY))


def exports(*names: str) -> Callable[[], None]:
    return lambda: print_exports(dict.fromkeys(names, EXPORT))


@pytest.mark.parametrize("columns", [50, 72, 120])
@pytest.mark.parametrize(
    ("show", "cells"),
    [
        (runs("magnitude_finetune"), [*RUNS, "magnitude_finetune", "123.45"]),
        (runs("sgd", "grda"), [*RUNS, "sgd", "grda"]),
        (runs("sgd", "magnitude_finetune", "grda-2"), [*RUNS, "magnitude_finetune", "grda-2"]),
        (exports("runs/demo/sgd", "runs/demo/grda"), [*EXPORTS, "runs/demo/grda"]),
    ],
)
def test_tables_are_whole_in_a_narrow_terminal(
    show: Callable[[], None],
    cells: list[str],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show()
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    assert "…" not in printed
    for cell in cells:
        assert cell in printed


def test_a_trial_that_diverged_has_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    good = Trial(0.51, 0.01, 0.9375, 0.3288)
    result = TuneResult(
        Trial(0.51, 0.0, 0.94, 0.0),
        (Trial(0.51, 0.05, 0.0, 0.0, diverged=True), good),
        good,
        TrainConfig(),
    )
    print_trials(result)
    printed = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["0.51", "0.05", "-", "-", "diverged"] in printed
    assert ["0.51", "0.01", "93.75%", "32.88%", "chosen"] in printed
    assert ["0.51", "0", "94.00%", "0.00%"] in printed


def test_a_saved_file_names_its_size_like_the_tables(tmp_path: Any) -> None:
    text = str(Saved(tmp_path / "m.dpz", 53_590, 572_104, True, 0.0))
    assert "53.6 kB, 10.7 times smaller than dense (572.1 kB)" in text
