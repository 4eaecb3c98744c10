"""Results as lines of a CSV file, which are appended one by one."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> list[T]:
    """Read the rows of a file as instances of a dataclass; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [msgspec.convert(row, kind, strict=False) for row in csv.DictReader(file)]


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row; a new file begins with the names of the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
