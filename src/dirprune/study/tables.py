"""The table of a comparison: one row per method, with mean and standard deviation over seeds."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirprune._support.files import read_json, writing

FIGURES = {
    "test_accuracy": "test accuracy, %",
    "sparsity": "zeros, % of all trainable parameters",
    "nonzeros": "nonzeros",
    "seconds_per_epoch": "s/epoch",
    "peak_memory_mib": "peak memory, MiB",
    "weights_zstd_bytes": "weights after zstd, kB",
}
"""Names in summary.json, and the headings of their columns."""

_SCALES = {"test_accuracy": 100.0, "sparsity": 100.0, "weights_zstd_bytes": 1e-3}
_DIGITS = {"test_accuracy": 2, "sparsity": 2, "seconds_per_epoch": 2}


@dataclass(frozen=True)
class MethodRow:
    """A method's figures over its finished runs.

    Attributes:
        method: Name of the method.
        finished: Number of finished runs.
        diverged: Number of diverged runs, which are not averaged.
        mean: Mean of every figure of `FIGURES`, or None without a finished run.
        std: Sample standard deviation (n - 1), or None with fewer than two runs.
    """

    method: str
    finished: int
    diverged: int
    mean: Mapping[str, float | None]
    std: Mapping[str, float | None]


def rows(summaries: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[MethodRow]:
    """Average over the runs of every method, given by their summary.json.

    Example:
        >>> run = dict.fromkeys(FIGURES, 1.0) | {"status": "finished"}
        >>> [row] = rows({"sgd": [run, run | {"sparsity": 0.5}]})
        >>> row.mean["sparsity"], round(row.std["sparsity"], 4)
        (0.75, 0.3536)
    """
    found = []
    for method, runs in summaries.items():
        counted = [run for run in runs if run["status"] == "finished"]
        diverged = sum(run["status"] == "diverged" for run in runs)
        values = {name: [run[name] for run in counted] for name in FIGURES}
        mean = {name: statistics.fmean(v) if v else None for name, v in values.items()}
        std = {name: statistics.stdev(v) if len(v) > 1 else None for name, v in values.items()}
        found.append(MethodRow(method, len(counted), diverged, mean, std))
    return found


def write_tables(out: Path, runs: Sequence[str]) -> list[MethodRow]:
    """Write comparison.csv and comparison.md.

    Args:
        out: Folder of the comparison.
        runs: The runs that are over, relative to it.

    Returns:
        The table.
    """
    summaries: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        summary = read_json(out / run / "summary.json")
        summaries.setdefault(run.partition("/")[0], []).append(summary)
    table = rows(summaries)
    for name, text in (("csv", csv_text(table)), ("md", markdown_text(table))):
        with writing(out / f"comparison.{name}") as temporary:
            temporary.write_text(text)
    return table


def csv_text(table: Sequence[MethodRow]) -> str:
    """Format a table as CSV: fractions, bytes and seconds, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{figure}_{kind}" for figure in FIGURES for kind in ("mean", "std")]
    writer.writerow(["method", "finished", "diverged", *names])
    for row in table:
        cells = [value for name in FIGURES for value in (row.mean[name], row.std[name])]
        writer.writerow([row.method, row.finished, row.diverged, *cells])
    return text.getvalue()


def markdown_text(table: Sequence[MethodRow]) -> str:
    """Format a table as Markdown: mean ± standard deviation over the finished runs."""
    lines = [
        "| method | runs | " + " | ".join(FIGURES.values()) + " |",
        "|---|---|" + "---:|" * len(FIGURES),
    ]
    for row in table:
        runs = f"{row.finished}" + (f" (+{row.diverged} diverged)" if row.diverged else "")
        cells = [_cell(name, row.mean[name], row.std[name]) for name in FIGURES]
        lines.append(f"| {row.method} | {runs} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    scale, digits = _SCALES.get(name, 1.0), _DIGITS.get(name, 0)
    spread = "" if std is None else f" ± {std * scale:,.{digits}f}"
    return f"{mean * scale:,.{digits}f}{spread}"
