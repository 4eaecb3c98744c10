"""The page of a landscape: one self-contained HTML file, from ``landscape.json`` alone."""

from pathlib import Path

from dirprune.report.landscape.captions import panels
from dirprune.report.landscape.pruning import look
from dirprune.report.landscape.published import of_dimension, published
from dirprune.report.landscape.read import Landscape, read_landscape
from dirprune.report.landscape.styles import CHANCE, CONTROLS, OBD, PAPER, PATHS, PRUNED, marks
from dirprune.report.landscape.tables import answers, networks, one_shot, paths
from dirprune.report.landscape.tables import published as published_table
from dirprune.report.landscape.words import headline
from dirprune.report.shared.frame import LINE, Key, page, pairs, stroke, write_page


def write_landscape_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a landscape, as far as it has been measured.

    Args:
        folder: Holds ``landscape.json``.
        out: The page, ``report.html`` in the folder by default; replaced only once the new page
            is complete on disk.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If there is no ``landscape.json``, or no folder for the page.
        ValueError: If it is not what ``dirprune landscape`` writes.

    Example:
        >>> write_landscape_report(Path("here"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: here holds no landscape.json: give a folder that dirprune landscape...
    """
    return write_page(out or folder / "report.html", render(read_landscape(folder)))


def render(found: Landscape) -> str:
    """The page as text.

    Args:
        found: As :func:`~dirprune.report.landscape.read.read_landscape` returns it.

    Returns:
        HTML in which everything that came from a file is escaped.
    """
    by_name = marks(found.networks)
    shown = panels(found, by_name)
    drawn = {trace.legendgroup for panel in shown for trace in panel.figure.data}
    extra = [PATHS, PRUNED, *(look(m, by_name) for m in CONTROLS), OBD, CHANCE, PAPER]
    extra = [mark for mark in dict.fromkeys(extra) if mark not in by_name.values()]
    keys = [
        Key(mark.key, mark.label, mark.colour, LINE, stroke(mark.dash))
        for mark in [*by_name.values(), *extra]
        if mark.key in drawn
    ]
    tables = [networks(found, by_name)] if found.networks else []
    more = [paths(found, by_name, of_dimension(found.dimension)), one_shot(found, by_name)]
    return page(
        "landscape/page.html.jinja",
        shown,
        title=_title(found),
        headline=headline(found, by_name),
        answers=answers(found, by_name) if found.networks else None,
        tables=[*(table for table in more if table), *tables],
        paper=published_table(published()),
        keys=keys,
        settings={
            "What was asked for": pairs(found.config),
            "Plan": pairs(found.plan),
            "Seconds": [(name, f"{s:.1f}") for name, s in found.seconds.items() if s is not None],
            "Environment": pairs(found.rest),
        },
    )


def _title(found: Landscape) -> str:
    if not found.networks:
        return "Landscape"
    return f"Landscape: {found.dense.name} and {found.sparse.name}"
