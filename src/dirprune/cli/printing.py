"""What the commands print of runs, trials and exported networks."""

import os
from typing import TYPE_CHECKING, Any

from dirprune._support.sizes import size_text
from dirprune.cli.tables import print_table, print_tables, print_text

if TYPE_CHECKING:
    from dirprune.bench.latency import Benchmark
    from dirprune.deploy.shrinking.report import ShrinkReport
    from dirprune.study.tune import Trial, TuneResult


def is_first() -> bool:
    """Return whether this process prints, among those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


def print_runs(summaries: dict[str, dict[str, Any]]) -> None:
    """Print a line for each finished run.

    Seconds per epoch are shown only for a single run: times of consecutive runs depend on the
    other load of the machine.
    """
    timed = ["s/epoch"] * (len(summaries) == 1)
    rows = [
        (
            name,
            f"{s['test_accuracy']:.2%}",
            f"{s['sparsity']:.2%}",
            f"{s['nonzeros']:,}",
            *[f"{s['seconds_per_epoch']:.2f}" for _ in timed],
            size_text(s["weights_zstd_bytes"]),
        )
        for name, s in summaries.items()
    ]
    titles = ("", "test accuracy", "zeros", "nonzeros", *timed, "weights after zstd")
    print_table(titles, rows, "zeros: share of all trainable parameters")


def print_trials(result: "TuneResult") -> None:
    """Print a line for each trial of c and mu."""

    def row(trial: "Trial") -> tuple[str, ...]:
        mark = "chosen" if trial == result.chosen else "diverged" if trial.diverged else ""
        found = ("-", "-") if trial.diverged else (
            f"{trial.validation_accuracy:.2%}", f"{trial.sparsity:.2%}",
        )  # fmt: skip
        return (f"{trial.mu:g}", f"{trial.c:g}", *found, mark)

    print_table(
        ("mu", "c", "accuracy", "zeros", ""),
        [row(trial) for trial in (result.reference, *result.trials)],
        "accuracy on held-out training data after the early epochs",
    )


def print_exports(found: dict[str, dict[str, Any]]) -> None:
    """Print size and latency of each exported network."""
    rows = []
    for name, export in found.items():
        sizes = (size_text(export[key]) for key in ("file_bytes", "dense_bytes"))
        times = (export["latency_ms"].get(key) for key in ("torch", "dirprune"))
        latencies = ("-" if ms is None else f"{ms:.3f} ms" for ms in times)
        rows.append((name, *sizes, *latencies))
    if rows:
        print_table(
            ("", "file", "dense", "torch", "dirprune"),
            rows,
            "shrunk and saved; ms for one image on one thread, median",
        )


def print_shrunk(report: "ShrinkReport") -> None:
    """Print what shrinking made of each layer."""
    titles, *rows = report.rows
    print_table(titles, rows, "")
    for line in report.notes:
        print_text(line)


def print_benchmark(figures: "Benchmark") -> None:
    """Print a table for each batch size and number of threads, and how it was measured."""
    titles = ("", "ms", "quartiles", "ratio")
    groups = []
    for batch, threads in dict.fromkeys((row.batch, row.threads) for row in figures.rows):
        rows = [
            (
                f"{row.runtime} {row.precision}",
                _brief(row.milliseconds),
                f"{_brief(row.quartiles[0])}-{_brief(row.quartiles[2])}",
                "-" if row.speedup is None else f"{row.speedup:.2f}x",
            )
            for row in figures.rows
            if (row.batch, row.threads) == (batch, threads)
        ]
        groups.append((rows, f"batch {batch}, {threads} thread{'s' * (threads != 1)}"))
    print_tables(titles, groups)
    largest: dict[str, float] = {}
    for row in figures.rows:
        name = f"{row.runtime} {row.precision}"
        largest[name] = max(row.difference, largest.get(name, 0.0))
    differences = ", ".join(f"{name} {value:.1e}" for name, value in largest.items())
    for line in (f"largest difference from torch: {differences}", *figures.notes):
        print_text(line)


def _brief(milliseconds: float) -> str:
    """A time with four digits, or with a thousandth of a millisecond."""
    return f"{milliseconds:.{max(0, min(3, 4 - len(str(int(milliseconds)))))}f}"
