"""The output of a run: a line per epoch and, in a terminal, progress bars below."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from dirprune._support.files import naming_errors
from dirprune.train.config import TrainConfig

# Seconds between lines within an epoch, if there are no bars.
PRINT_EVERY = 60.0


_log = logging.getLogger(__name__)


class Display:
    """Receives the progress of the training loop, and shows nothing."""

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """The run starts, or resumes after ``step`` steps, with ``total`` trainable parameters."""

    def step(self, step: int) -> None:
        """The run has taken ``step`` optimizer steps."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch has ended; ``record`` is its line of metrics.jsonl."""

    def stop(self) -> None:
        """The run has ended, successfully or not."""


class Displays(Display):
    """Several displays as one; without any, it shows nothing.

    Args:
        displays: The displays; each receives every call, in this order.
    """

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Start all displays."""
        for display in self._displays:
            display.start(config, total, steps_per_epoch, step)

    def step(self, step: int) -> None:
        """Forward the call to all displays."""
        for display in self._displays:
            display.step(step)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Forward the call to all displays."""
        for display in self._displays:
            display.epoch(record)

    def stop(self) -> None:
        """Stop all displays."""
        for display in self._displays:
            display.stop()


class TensorBoard(Display):
    """Writes the figures of each epoch as TensorBoard scalars.

    It does not use torch's SummaryWriter, whose thread prints a traceback when the disk is full.

    Args:
        folder: Folder of the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Begin a file that replaces earlier ones from ``step`` on."""
        # TensorBoard reads files in the order of these seconds, also if the clock was set back.
        earlier = [path.name.split(".")[3] for path in self._folder.glob("events.out.tfevents.*")]
        second = max(int(time.time()), *(int(s) + 1 for s in earlier if s.isdecimal()), 0)
        name = f"events.out.tfevents.{second}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._folder / name
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write every number of the epoch."""
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and name not in ("epoch", "step")
        ]
        self._write(step=record["step"], summary=Summary(value=values))

    def _write(self, **fields: Any) -> None:
        with naming_errors(self._path), self._path.open("ab") as file:
            event = Event(wall_time=time.time(), **fields)
            RecordWriter(file).write(event.SerializeToString())


class LogDisplay(Display):
    """A log record per epoch, at level INFO."""

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Log model, data and method."""
        self._epochs = config.epochs
        _log.info("%s on %s, %s, from step %d", config.model, config.data, config.method, step)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log the epoch's figures."""
        _log.info(epoch_line(record, self._epochs))


class ConsoleDisplay(Display):
    """A line per epoch; in a terminal bars with the remaining time, elsewhere a line per minute.

    No line is wider than 50 columns, unless a name is long.

    Args:
        console: Where to print; by default the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars = progress_bars(self.console)

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Print model, data, method and the headings of the columns."""
        self._epochs, self._steps = config.epochs, steps_per_epoch
        self._print(f"{config.model} on {config.data}, {config.method}, seed {config.seed}")
        self._print(f"zeros: share of {total:,} trainable parameters")
        valid = "  valid" if config.validation else ""
        self._print(f"  epoch    loss  train   test{valid}  zeros   time")
        steps = config.epochs * steps_per_epoch
        if step:
            self._print(f"resumes after step {step:,} of {steps:,}")
        self._printed = time.monotonic()
        self._run = self._bars.add_task("run", total=steps, completed=step)
        self._epoch = self._bars.add_task("", total=steps_per_epoch)
        self.step(step)
        self._bars.start()

    def step(self, step: int) -> None:
        """Move the bars, or print the position once per minute."""
        epoch, done = divmod(step, self._steps)
        late = time.monotonic() - self._printed >= PRINT_EVERY
        if late and done and not self.console.is_terminal:
            self._print(f"{epoch + 1:>3}/{self._epochs:<3} step {done} of {self._steps}")
            self._printed = time.monotonic()
        self._bars.update(self._run, completed=step)
        if done == 0:
            self._bars.reset(self._epoch, description=f"epoch {min(epoch + 1, self._epochs)}")
        self._bars.update(self._epoch, completed=done)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Print the epoch's figures."""
        self._print(epoch_line(record, self._epochs))
        self._printed = time.monotonic()

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()

    def _print(self, line: str) -> None:
        # Paths may contain text that rich would interpret as markup or an emoji.
        self.console.print(line, markup=False, emoji=False, highlight=False)


def progress_bars(console: Console) -> Progress:
    """Make progress bars with the remaining time, which are only shown in a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Format the figures of an epoch in at most 50 columns.

    Returns:
        Epoch, training loss, accuracies on training, test and (if any) validation data, share of
        zeros and time.

    Example:
        >>> figures = dict(train_loss=0.1234, train_accuracy=0.987, test_accuracy=0.965)
        >>> epoch_line(figures | dict(epoch=3, sparsity=0.912, seconds=75.2), epochs=60)
        '  3/60   0.1234 98.70% 96.50% 91.20%   1:15'
    """
    seconds = record["seconds"]
    spent = f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    validation = record.get("validation_accuracy")
    valid = "" if validation is None else _percent(validation)
    return (
        f"{record['epoch']:>3}/{epochs:<3}{record['train_loss']:8.4f}"
        f"{_percent(record['train_accuracy'])}{_percent(record['test_accuracy'])}"
        f"{valid}{_percent(record['sparsity'])}{spent:>7}"
    )


def _percent(share: float | None) -> str:
    text = "-" if share is None else f"{share:.2%}"
    return f"{text.replace('100.00', '100.0'):>7}"
