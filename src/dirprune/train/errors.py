"""Exceptions that end a run early."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Diverged(RuntimeError):
    """The loss is not finite, or the output no longer depends on the input because of zeros."""


class OutOfMemory(MemoryError):
    """The device or the host has too little memory for the run."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM was received; the run was saved after its current step.

    Attributes:
        out: The run's folder.
    """

    def __init__(self, out: Path, step: int) -> None:
        super().__init__(
            f"interrupted after step {step}, saved in {out}: run the same command with --resume "
            "(resume=True) to continue"
        )
        self.out = out


class Stopped(Interrupted):
    """SIGINT or SIGTERM was received by a command of several runs; the same command continues.

    Attributes:
        out: The folder of the command.
    """

    def __init__(self, out: Path) -> None:
        KeyboardInterrupt.__init__(
            self, f"interrupted, saved in {out}: run the same command again to continue"
        )
        self.out = out


@contextmanager
def part_of(out: Path) -> Iterator[None]:
    """Say of an interrupted run that the command that writes ``out`` continues it, if repeated."""
    try:
        yield
    except Interrupted as stop:
        raise Stopped(out) from stop
