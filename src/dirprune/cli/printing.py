"""Tables that the commands print: runs, trials and exported networks."""

import os
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dirprune.study.tune import TuneResult


def is_first() -> bool:
    """Return whether this process prints, among those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


def print_runs(summaries: dict[str, dict[str, Any]]) -> None:
    """Print a line for each finished run.

    Seconds per epoch are shown only for a single run: times of consecutive runs depend on the
    other load of the machine.
    """
    table = Table(caption="sparsity: share of zeros; after zstd: weights")
    table.add_column("")
    timed = ["s/epoch"] * (len(summaries) == 1)
    for title in ("test accuracy", "sparsity", "nonzeros", *timed, "after zstd"):
        table.add_column(title, justify="right")
    for name, s in summaries.items():
        table.add_row(
            name,
            f"{s['test_accuracy']:.2%}",
            f"{s['sparsity']:.2%}",
            f"{s['nonzeros']:,}",
            *[f"{s['seconds_per_epoch']:.2f}" for _ in timed],
            f"{s['weights_zstd_bytes'] / 1e3:,.1f} kB",
        )
    Console().print(table)


def print_trials(result: "TuneResult") -> None:
    """Print a line for each trial of c and mu."""
    table = Table(caption="accuracy on held-out training data after the early epochs")
    for title in ("mu", "c", "accuracy", "sparsity", ""):
        table.add_column(title, justify="right")
    for trial in (result.reference, *result.trials):
        mark = "chosen" if trial == result.chosen else ""
        figures = (f"{trial.mu:g}", f"{trial.c:g}", f"{trial.validation_accuracy:.2%}")
        table.add_row(*figures, f"{trial.sparsity:.2%}", mark)
    Console().print(table)


def print_exports(found: dict[str, dict[str, Any]]) -> None:
    """Print size and latency of each exported network."""
    table = Table(caption="shrunk and saved; ms for one image on one thread, median")
    table.add_column("")
    for title in ("file", "dense", "torch", "dirprune"):
        table.add_column(title, justify="right")
    for name, export in found.items():
        sizes = (f"{export[key] / 1e3:,.1f} kB" for key in ("file_bytes", "dense_bytes"))
        times = (export["latency_ms"].get(key) for key in ("torch", "dirprune"))
        latencies = ("-" if ms is None else f"{ms:.3f} ms" for ms in times)
        table.add_row(name, *sizes, *latencies)
    if table.row_count:
        Console().print(table)
