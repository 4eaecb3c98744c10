"""What a survey shows: estimates first, then a bar in a terminal, elsewhere a line a minute."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dirprune._support.processes import any_rank, rank_and_world
from dirprune.survey.config import show_duration
from dirprune.train.errors import Stopped
from dirprune.train.stopping import StopSignals

TELL_EVERY = 60.0
"""Seconds without a line, where there are no bars, after which there is one."""


class Display:
    """Shows progress in the first process, and breaks all off where a signal asks for it.

    Args:
        out: The survey's folder, named when it is broken off.
        console: Where to; by default the standard output.
    """

    def __init__(self, out: Path, console: Console | None = None) -> None:
        self._out = out
        self._console = console or Console(quiet=rank_and_world()[0] > 0)
        self._stop = StopSignals()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "Display":
        """Listen to signals, show bars."""
        self._stop.__enter__()
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bars."""
        self._bars.stop()
        self._stop.__exit__(kind, error, traceback)

    def say(self, line: str) -> None:
        """Print a line."""
        # A path may hold what rich would take for markup or the name of a picture.
        self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def piece(self, title: str) -> Callable[[int, int], None]:
        """Begin a piece of work.

        Args:
            title: What it is.

        Returns:
            To be told how many units are done, of how many; raises `Stopped` after a signal.
        """
        self.check()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        task = self._bars.add_task(title, total=None)
        begun = time.monotonic()
        told = begun

        def progress(done: int, total: int) -> None:
            nonlocal told
            self._bars.update(task, completed=done, total=total)
            now = time.monotonic()
            if not self._console.is_terminal and now - told > TELL_EVERY:
                left = (now - begun) / max(done, 1) * (total - done)
                self.say(f"{title}: {done} of {total}, about {show_duration(left)} left")
                told = now
            self.check()

        return progress

    def check(self) -> None:
        """Break off if a signal came to any process; all of them have to ask.

        Raises:
            Stopped: If so.
        """
        if any_rank(self._stop.received):
            raise Stopped(self._out)
