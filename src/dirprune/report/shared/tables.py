"""Tables of the pages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

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


Columns = Mapping[str, Callable[[T], str]]
"""Functions that format the cells of an item, by the titles of their columns."""


def tabulate(
    title: str,
    heading: str,
    columns: Columns[T],
    items: Sequence[tuple[str, str, T]],
    note: str = "",
) -> Table:
    """Make a table, without empty columns.

    Args:
        title: The table's title.
        heading: The title of its first column.
        columns: The other columns.
        items: Label, colour and item of each row.
        note: Explains the columns.
    """
    cells = {name: [cell(item) for _, _, item in items] for name, cell in columns.items()}
    kept = {name: own for name, own in cells.items() if any(cell != MISSING for cell in own)}
    rows = (
        TableRow(label, colour, tuple(own[k] for own in kept.values()))
        for k, (label, colour, _) in enumerate(items)
    )
    return Table(title, heading, tuple(kept), tuple(rows), note)
