"""Tables of the pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dirprune.report.shared.numbers import MISSING

T = TypeVar("T")


@dataclass(frozen=True)
class TableRow:
    """One row, with a cell for each of the table's columns."""

    label: str
    colour: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; ``heading`` is the title of its first column, ``note`` explains the columns."""

    title: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column's title, and a function that formats its cell for one item."""

    title: str
    cell: Callable[[T], str]


def tabulate(
    columns: Sequence[Column[T]], items: Sequence[tuple[str, str, T]]
) -> tuple[tuple[str, ...], tuple[TableRow, ...]]:
    """Return the titles and rows of a table, without empty columns.

    Args:
        columns: All columns.
        items: Label, colour and item of each row.
    """
    cells = [[column.cell(item) for _, _, item in items] for column in columns]
    kept = [i for i, column in enumerate(cells) if any(cell != MISSING for cell in column)]
    rows = tuple(
        TableRow(label, colour, tuple(cells[i][k] for i in kept))
        for k, (label, colour, _) in enumerate(items)
    )
    return tuple(columns[i].title for i in kept), rows
