"""The command line: parse, call, print; the only place that combines siblings."""

import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from dirprune.report.page import write_report
from dirprune.train.config import TrainConfig
from dirprune.train.loop import Diverged, Interrupted
from dirprune.train.loop import train as train_run

DEMO = TrainConfig()
"""What the demo trains with each method."""


def train(config: TrainConfig, out: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Train one network and write its run folder, with a report.

    Args:
        config: What to train, and how.
        out: Folder of the run.
        resume: Go on with the run in the folder, to the same bits as without the stop.
        overwrite: Replace the run in the folder.
    """
    summary = train_run(config, out, resume=resume, overwrite=overwrite)
    page = write_report([out], out / "report.html")
    _print_runs({config.method: summary})
    print(f"report: {page}")


def demo(out: Path = Path("runs/demo"), overwrite: bool = False) -> None:
    """Train SGD and gRDA on real digits, from the same weights on the same batches.

    Args:
        out: Folder of the two run folders and their report.
        overwrite: Replace earlier runs in the folder.
    """
    summaries = {}
    for method in ("sgd", "grda"):
        config = replace(DEMO, method=method)
        summaries[method] = train_run(config, out / method, overwrite=overwrite)
    page = write_report([out / method for method in summaries], out / "report.html")
    _print_runs(summaries)
    print(f"report: {page}")


def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Draw the report of one run, of several, or of a comparison.

    Args:
        runs: Run folders, or one folder of a comparison.
        out: The page; report.html in the first folder by default.
    """
    if not runs:
        raise ValueError("report needs at least one run folder, got none")
    print(f"report: {write_report(runs, out or runs[0] / 'report.html')}")


COMMANDS: dict[str, Callable[..., None]] = {"train": train, "demo": demo, "report": report}
"""What the program can be told to do, each with the options of its function."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        The exit status: 0; 1 if training diverged; 2 for a mistake in the command, the data or
        the disk, told in one line; 130 if interrupted.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            command = _parse(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as stop:
        return _fail(_unboxed(complaint.getvalue()), 2) if stop.code else 0
    except (ValueError, TypeError) as problem:
        return _fail(problem, 2)
    try:
        command()
    except Diverged as problem:
        return _fail(problem, 1)
    except Interrupted as problem:
        return _fail(problem, 130)
    except (ValueError, TypeError, OSError, ImportError) as problem:
        return _fail(problem, 2)
    return 0


def _parse(arguments: list[str]) -> Callable[[], None]:
    """Turn words into a call that has all its arguments."""
    parsed: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
        {name: _later(command) for name, command in COMMANDS.items()},
        prog="dirprune",
        description="Train sparse with gRDA, understand it, ship it.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Make a function that takes the same arguments and returns the call instead of making it."""

    @wraps(command)
    def postponed(*args: object, **kwargs: object) -> Callable[[], None]:
        return partial(command, *args, **kwargs)

    return postponed


def _unboxed(complaint: str) -> str:
    """Return what the parser says without its frame, its headings and its own name for things."""
    lines = [line.strip("╭╮╰╯│─+| ") for line in complaint.splitlines()]
    _, *told = [line for line in lines if line.strip("-")]
    text = " ".join(told)
    text = re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", text)
    return re.sub(r"\.? For full helptext,? (run|see):? dirprune", "; see dirprune", text)


def _fail(problem: BaseException | str, status: int) -> int:
    print(f"dirprune: {' '.join(str(problem).split())}", file=sys.stderr)
    return status


def _print_runs(summaries: dict[str, dict[str, Any]]) -> None:
    table = Table(caption="sparsity: zeros of all trainable parameters; size: weights after zstd")
    table.add_column("")
    for title in ("test accuracy", "sparsity", "nonzeros", "s/epoch", "size"):
        table.add_column(title, justify="right")
    for name, s in summaries.items():
        table.add_row(
            name,
            f"{s['test_accuracy']:.2%}",
            f"{s['sparsity']:.2%}",
            f"{s['nonzeros']:,}",
            f"{s['seconds_per_epoch']:.2f}",
            f"{s['weights_zstd_bytes'] / 1e3:,.1f} kB",
        )
    Console().print(table)
