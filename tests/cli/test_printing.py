"""The printed tables can be read in a narrow terminal, and sizes have one format."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from dirprune.bench.latency import Benchmark, RuntimeLatency
from dirprune.cli.printing import (
    print_benchmark,
    print_exports,
    print_runs,
    print_shrunk,
    print_trials,
)
from dirprune.cli.tables import print_text
from dirprune.deploy.file.io import Saved
from dirprune.deploy.shrinking.report import LayerChange, LayerSize, ShrinkReport
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


LAYERS = [
    LayerChange(
        f"layer{i}.0.downsample.0",
        LayerSize(2048, 512, 2_359_296, 115_605_504),
        LayerSize(1365, 341, 1_046_529, 51_279_921),
        {"output": 4} if i == 9 else {},
    )
    for i in range(10)
]
SHRUNK = [
    *["2,048", "1,365", "2,359,296", "1,046,529", "115,605,504", "51,279,921", "all layers: 25"],
    *["layer0.0.", "downsample.0", "4 in layer9.0.downsample.0"],
]
BENCHED = [
    "onnxruntime-int8 i8",
    "63.40",
    "12.12-1235",
    "0.007",
    "1234.57x",
    "batch 16, 2 threads",
]


def shrunk() -> None:
    print_shrunk(ShrinkReport(tuple(LAYERS), (25_557_032, 11_792_055), (10**10, 10**9), 0.0))


def benched() -> None:
    rows = [
        RuntimeLatency(f"onnxruntime{kind}", "i8", batch, 2, times, 1234.567, 1e-7)
        for batch in (1, 16)
        for kind, times in (("", (0.007, 0.007, 0.0071)), ("-int8", (12.123, 63.4, 1234.56)))
    ]
    print_benchmark(Benchmark(tuple(rows), 0.9, {"file": 1}, 20, (), {}))


@pytest.mark.parametrize("columns", [50, 72, 120])
@pytest.mark.parametrize(
    ("show", "cells"),
    [
        (runs("magnitude_finetune"), [*RUNS, "magnitude_finetune", "123.45"]),
        (runs("sgd", "grda"), [*RUNS, "sgd", "grda"]),
        (runs("sgd", "magnitude_finetune", "grda-2"), [*RUNS, "magnitude_finetune", "grda-2"]),
        (exports("runs/demo/sgd", "runs/demo/grda"), [*EXPORTS, "runs/demo/grda"]),
        (shrunk, SHRUNK),
        (benched, BENCHED),
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


@pytest.mark.parametrize(
    ("show", "titles", "tables"), [(shrunk, "channels", 1), (benched, "ms", 2)]
)
def test_rows_stay_together_in_a_narrow_terminal(
    show: Callable[[], None],
    titles: str,
    tables: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    show()
    printed = capsys.readouterr().out.splitlines()
    assert sum(titles in line.split() for line in printed) == tables


def test_a_sentence_is_one_line_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    print_text("word " * 99 + "end")
    assert capsys.readouterr().out == "word " * 99 + "end\n"


@pytest.mark.parametrize("columns", ["0", "40"])
def test_what_an_error_lists_stays_a_list(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.__stdout__", None)
    print_text("RUN cannot be captured:\n  aten.one\n  aten.two\nReplace these")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["RUN cannot be captured:", "  aten.one", "  aten.two", "Replace these"]


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


def test_a_landscape_says_something_before_it_loads_torch() -> None:
    program = (
        "import builtins, sys\n"
        "from dirprune import cli\n"
        "show = print\n"
        "builtins.print = lambda *a, **k: show('torch' in sys.modules, *a, **k)\n"
        "cli.main(['landscape', 'nowhere', 'nobody', '--out', 'nothing'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "False loading torch and the networks\n"
