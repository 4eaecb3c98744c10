"""What a run shows: a line per epoch, and below it, in a terminal, how far it is."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from dirprune._support.files import naming_errors
from dirprune.train.config import TrainConfig

# Seconds after which a line is printed within an epoch, where there are no bars.
PRINT_EVERY = 60.0


_log = logging.getLogger(__name__)


class Display(Protocol):
    """What the training loop reports to."""

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Begin, or resume after ``step`` steps, with ``total`` trainable parameters."""

    def step(self, step: int) -> None:
        """The run has taken ``step`` optimizer steps."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is over; ``record`` is its line of metrics.jsonl."""

    def stop(self) -> None:
        """The run is over, however it ended."""


class Displays:
    """Several displays as one; without any, it shows nothing.

    Args:
        displays: Receive every call, in this order.
    """

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Begin in all."""
        for display in self._displays:
            display.start(config, total, steps_per_epoch, step)

    def step(self, step: int) -> None:
        """Pass the call on."""
        for display in self._displays:
            display.step(step)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Pass the call on."""
        for display in self._displays:
            display.epoch(record)

    def stop(self) -> None:
        """Stop all."""
        for display in self._displays:
            display.stop()


class TensorBoard:
    """The epochs' figures as TensorBoard's scalars.

    Written at once and here: torch's SummaryWriter leaves that to a thread, which fills the
    screen with its traceback when the disk is full.

    Args:
        folder: Where its files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Begin a file that takes the place of earlier ones from ``step`` on."""
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._folder / name
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def step(self, step: int) -> None:
        """Steps are not shown."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write every number of the epoch."""
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and name not in ("epoch", "step")
        ]
        self._write(step=record["step"], summary=Summary(value=values))

    def stop(self) -> None:
        """Everything is written already."""

    def _write(self, **fields: Any) -> None:
        with naming_errors(self._path), self._path.open("ab") as file:
            event = Event(wall_time=time.time(), **fields)
            RecordWriter(file).write(event.SerializeToString())


class LogDisplay:
    """A log record per epoch, at level INFO."""

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Log what is trained."""
        self._epochs = config.epochs
        _log.info("%s on %s, %s, from step %d", config.model, config.data, config.method, step)

    def step(self, step: int) -> None:
        """Steps are not logged."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log the epoch's figures."""
        _log.info(epoch_line(record, self._epochs))

    def stop(self) -> None:
        """Nothing is open."""


class ConsoleDisplay:
    """A line per epoch; in a terminal bars with the time that is left, elsewhere a line a minute.

    Nothing is wider than 60 columns.

    Args:
        console: Where to; by default the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Print what is being trained and the heads of the columns."""
        self._epochs, self._steps = config.epochs, steps_per_epoch
        self._print(f"{config.model} on {config.data}, {config.method}, seed {config.seed}")
        self._print(f"zeros: share of all {total:,} trainable parameters")
        valid = "   valid" if config.validation else ""
        self._print(f"    epoch     loss   train    test{valid}    zeros    time")
        steps = config.epochs * steps_per_epoch
        if step:
            self._print(f"resumes after step {step:,} of {steps:,}")
        self._printed = time.monotonic()
        self._run = self._bars.add_task("run", total=steps, completed=step)
        self._epoch = self._bars.add_task("", total=steps_per_epoch)
        self.step(step)
        self._bars.start()

    def step(self, step: int) -> None:
        """Move the bars, or say once a minute where it is."""
        epoch, done = divmod(step, self._steps)
        late = time.monotonic() - self._printed >= PRINT_EVERY
        if late and done and not self.console.is_terminal:
            self._print(f"{epoch + 1:>6}/{self._epochs:<3} step {done} of {self._steps}")
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
        # A path may hold what rich would take for markup or the name of a picture.
        self.console.print(line, markup=False, emoji=False, highlight=False)


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Put an epoch's figures into less than 60 columns.

    Args:
        record: A line of metrics.jsonl.
        epochs: Of the whole run.

    Returns:
        Epoch, training loss, accuracies on training, test and (if any) validation data, share of
        zeros and time.

    Example:
        >>> figures = dict(train_loss=0.1234, train_accuracy=0.987, test_accuracy=0.965)
        >>> epoch_line(figures | dict(epoch=3, sparsity=0.912, seconds=75.2), epochs=60)
        '     3/60   0.1234  98.70%  96.50%   91.20%    1:15'
    """
    seconds = record["seconds"]
    spent = f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    validation = record.get("validation_accuracy")
    valid = "" if validation is None else _percent(validation)
    return (
        f"{record['epoch']:>6}/{epochs:<3}{record['train_loss']:8.4f}"
        f"{_percent(record['train_accuracy'])}{_percent(record['test_accuracy'])}"
        f"{valid} {_percent(record['sparsity'])}{spent:>8}"
    )


def _percent(share: float | None) -> str:
    return f"{'-':>8}" if share is None else f"{share:8.2%}"
