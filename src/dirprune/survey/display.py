"""Progress of a survey: a bar in a terminal, elsewhere a line a minute."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from dirprune._support.processes import any_rank, rank_and_world
from dirprune.survey.config import show_duration
from dirprune.train.display import progress_bars
from dirprune.train.errors import Stopped
from dirprune.train.stopping import StopSignals

LINE_INTERVAL = 60.0
"""Seconds between two lines of progress where bars cannot be shown."""


class SurveyDisplay:
    """Shows progress on rank 0, and stops the survey after SIGINT or SIGTERM.

    Args:
        out: The survey's folder, which the message after a stop names.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._console = Console(quiet=rank_and_world()[0] > 0)
        self._stop = StopSignals()
        self._bars = progress_bars(self._console)

    def __enter__(self) -> "SurveyDisplay":
        """Install the signal handlers and show bars."""
        self._stop.__enter__()
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bars."""
        self._bars.stop()
        self._stop.__exit__(*error)

    def print(self, line: str) -> None:
        """Print a line."""
        # A path may contain what rich would read as markup or as the name of an emoji.
        self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def start(self, title: str) -> Callable[[int, int], None]:
        """Start the progress of one task.

        Returns:
            A function of the number of finished units and of all units; it raises `Stopped` after
            a signal.
        """
        self.check()
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        task = self._bars.add_task(title, total=None)
        begun = time.monotonic()
        last_line = begun

        def progress(done: int, total: int) -> None:
            nonlocal last_line
            self._bars.update(task, completed=done, total=total)
            now = time.monotonic()
            if not self._console.is_terminal and now - last_line > LINE_INTERVAL:
                left = (now - begun) / max(done, 1) * (total - done)
                self.print(f"{title}: {done} of {total}, about {show_duration(left)} left")
                last_line = now
            self.check()

        return progress

    def check(self) -> None:
        """Stop if any process has received a signal; a collective call.

        Raises:
            Stopped: If so.
        """
        if any_rank(self._stop.received):
            raise Stopped(self._out)
