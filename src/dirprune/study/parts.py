"""Parts of a comparison: array jobs that share its runs and its folder."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dirprune._support.lock import locked

PATIENCE = 10.0
"""Seconds to wait for the folder while other parts start or end."""


@dataclass(frozen=True)
class Part:
    """One of several parts of a comparison.

    Attributes:
        index: Number of the part, from 1 to ``count``.
        count: Number of parts.

    Example:
        >>> [number for number in range(7) if Part.parse("2/3").has(number)]
        [1, 4]
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read a part from text such as ``"1/4"``.

        Raises:
            ValueError: If there is no such part.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        part = cls(int(match[1]), int(match[2])) if match else None
        if part is None or not 1 <= part.index <= part.count:
            raise ValueError(
                f"part {text!r} does not exist: give I/N with I from 1 to N, such as 1/4"
            )
        return part

    def has(self, number: int) -> bool:
        """Return whether a run, numbered from 0, belongs to this part."""
        return number % self.count == self.index - 1

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Refuse a second start of this part while it runs.

        Raises:
            FolderInUse: If the part is running.
        """
        with locked(folder / f".part-{self.index}-of-{self.count}"):
            yield


def check_no_part_runs(folder: Path) -> None:
    """Refuse to run a complete comparison while one of its parts runs.

    Args:
        folder: The comparison's folder, locked, so that no part can start.

    Raises:
        FolderInUse: If a part is running.
    """
    for path in folder.glob(".part-*-of-*"):
        with locked(path):
            pass
        with suppress(OSError):
            path.rmdir()  # left behind by a killed part
