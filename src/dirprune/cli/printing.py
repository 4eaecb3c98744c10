"""Tables that the commands print: runs, trials and exported networks."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dirprune._support.sizes import size_text

if TYPE_CHECKING:
    from dirprune.bench.latency import Benchmark
    from dirprune.study.tune import Trial, TuneResult


def is_first() -> bool:
    """Return whether this process prints, among those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """Print a table; if it is wider than the terminal, each of its rows becomes a column.

    If that is too wide as well, each row is printed as a table of its own.

    Args:
        titles: The title of each column; that of the first, which names the rows, is empty.
        rows: The cells of each row, as many as titles.
        caption: The text below the table.
    """
    console = Console()
    turned = list(zip(titles, *rows, strict=True))
    single = [list(zip(titles, row, strict=True)) for row in rows]
    for tables in ([[titles, *rows]], [turned], single):
        drawn = [_table(cells, caption if cells is tables[-1] else None) for cells in tables]
        unlimited = console.options.update(max_width=10_000)
        if all(console.measure(table, options=unlimited).maximum <= console.width
               for table in drawn):  # fmt: skip
            break
    for table in drawn:
        console.print(table)


def _table(cells: Sequence[Sequence[str]], caption: str | None) -> Table:
    """Return a table with these cells, of which the first row has the titles."""
    table = Table(caption=caption)
    for at, title in enumerate(cells[0]):
        table.add_column(title, justify="right" if at else "left")
    for row in cells[1:]:
        table.add_row(*row)
    return table


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


def print_benchmark(figures: "Benchmark") -> None:
    """Print a table for each batch size and number of threads, and how it was measured."""
    titles = ("", "ms", "quartiles", "ratio")
    for batch, threads in dict.fromkeys((row.batch, row.threads) for row in figures.rows):
        rows = [
            (
                f"{row.runtime} {row.precision}",
                f"{row.milliseconds:.3f}",
                f"{row.quartiles[0]:.3f}-{row.quartiles[2]:.3f}",
                "-" if row.speedup is None else f"{row.speedup:.2f}x",
            )
            for row in figures.rows
            if (row.batch, row.threads) == (batch, threads)
        ]
        plural = "s" * (threads != 1)
        print_table(titles, rows, f"batch {batch}, {threads} thread{plural}")
    largest: dict[str, float] = {}
    for row in figures.rows:
        name = f"{row.runtime} {row.precision}"
        largest[name] = max(row.difference, largest.get(name, 0.0))
    differences = ", ".join(f"{name} {value:.1e}" for name, value in largest.items())
    console = Console()
    for line in (f"largest difference from torch: {differences}", *figures.notes):
        console.print(line, highlight=False, markup=False)
