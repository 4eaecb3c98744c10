"""Tables of the pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dirprune.report.shared.numbers import MISSING

T = TypeVar("T")


@dataclass(frozen=True)
class TableRow:
    """One line; ``cells`` stand below the table's columns."""

    label: str
    colour: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """With its heading, the title of its first column, and what its columns mean."""

    title: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column's title, and how its cell is made for one thing."""

    title: str
    cell: Callable[[T], str]


def tabulate(
    columns: Sequence[Column[T]], things: Sequence[tuple[str, str, T]]
) -> tuple[tuple[str, ...], tuple[TableRow, ...]]:
    """Make the titles and the rows of a table, without the columns that are empty."""
    cells = [[column.cell(thing) for _, _, thing in things] for column in columns]
    kept = [i for i, column in enumerate(cells) if any(cell != MISSING for cell in column)]
    rows = tuple(
        TableRow(label, colour, tuple(cells[i][k] for i in kept))
        for k, (label, colour, _) in enumerate(things)
    )
    return tuple(columns[i].title for i in kept), rows
