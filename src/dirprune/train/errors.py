"""How a run can end early."""

from pathlib import Path


class Diverged(RuntimeError):
    """The loss is no longer finite, or so much is zero that the image no longer matters."""


class OutOfMemory(MemoryError):
    """The device or the host has too little memory for the run."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came; the run was saved after the step it was in.

    Attributes:
        out: The run's folder.
    """

    def __init__(self, out: Path, step: int) -> None:
        super().__init__(
            f"interrupted after step {step}, saved in {out}: give the same command with --resume "
            "(resume=True) to go on"
        )
        self.out = out


class Stopped(Interrupted):
    """SIGINT or SIGTERM came; the same command goes on where it was.

    Attributes:
        out: The comparison's folder.
    """

    def __init__(self, out: Path) -> None:
        KeyboardInterrupt.__init__(
            self, f"interrupted, saved in {out}: give the same command again to go on"
        )
        self.out = out
