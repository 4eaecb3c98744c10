"""Tables and sentences that can be read at any width of the terminal."""

import shutil
import textwrap
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Rows = Sequence[Sequence[str]]

ARROW = " -> "
"""Between both values of a cell that shows a change."""

SHORT = 12
"""Length of a name that needs one line in any form."""


def print_table(titles: Sequence[str], rows: Rows, caption: str) -> None:
    """Print one table; see :func:`print_tables`."""
    print_tables(titles, [(rows, caption)])


def print_tables(titles: Sequence[str], groups: Sequence[tuple[Rows, str]]) -> None:
    """Print tables with the same columns, in the first form in which all fit into the terminal.

    The forms: with rules between the columns; without; also with the second half of changes and
    of long names below the first; with a column for each row; with a table for each row.

    Args:
        titles: The title of each column; that of the first, which names the rows, is empty.
        groups: The rows and the caption, if any, of each table; a row has as many cells as titles.
    """
    console = Console()
    unlimited = console.options.update(max_width=10_000)
    for form in FORMS:
        drawn = [table for rows, caption in groups for table in form(titles, rows, caption)]
        widest = max(console.measure(table, options=unlimited).maximum for table in drawn)
        if widest <= console.width:
            break
    for table in drawn:
        console.print(table)


def print_text(text: str) -> None:
    """Print sentences; a terminal gets lines that end at spaces."""
    width = shutil.get_terminal_size(fallback=(0, 0)).columns  # 0: no terminal, nothing to wrap
    for line in text.split("\n"):  # an error may list what is wrong, a line for each
        print(textwrap.fill(line, width or len(line) + 1, break_long_words=False,
                            break_on_hyphens=False))  # fmt: skip


def _ruled(titles: Sequence[str], rows: Rows, caption: str) -> list[Table]:
    return [_filled(Table(caption=caption or None), [titles, *rows])]


def _plain(titles: Sequence[str], rows: Rows, caption: str, gap: int = 2) -> list[Table]:
    table = Table(
        caption=caption or None, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        padding=(0, gap - 1, 0, 0),
    )  # fmt: skip
    return [_filled(table, [titles, *rows])]


def _stacked(titles: Sequence[str], rows: Rows, caption: str) -> list[Table]:
    halves = [
        [_halved(name), *(cell.replace(ARROW, f"\n{ARROW.lstrip()}") for cell in cells)]
        for name, *cells in rows
    ]
    return _plain(titles, halves, caption, gap=1)


def _halved(name: str) -> str:
    """Break a long name of a layer in two lines, at the dot nearest to its middle."""
    dots = [at + 1 for at, letter in enumerate(name) if letter == "."]
    if len(name) <= SHORT or not dots:
        return name
    middle = min(dots, key=lambda at: abs(2 * at - len(name)))
    return f"{name[:middle]}\n{name[middle:]}"


def _turned(titles: Sequence[str], rows: Rows, caption: str) -> list[Table]:
    [heads, *others] = zip(titles, *rows, strict=True)
    return _ruled(heads, others, caption)


def _single(titles: Sequence[str], rows: Rows, caption: str) -> list[Table]:
    captions = [""] * (len(rows) - 1) + [caption]
    return [table for row, below in zip(rows, captions) for table in _turned(titles, [row], below)]


FORMS: tuple[Callable[[Sequence[str], Rows, str], list[Table]], ...] = (
    _ruled, _plain, _stacked, _turned, _single,
)  # fmt: skip
"""From the widest to the narrowest."""


def _filled(table: Table, cells: Rows) -> Table:
    """Add cells to a table; the first row has the titles."""
    for at, title in enumerate(cells[0]):
        table.add_column(Text(title), justify="right" if at else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    return table
