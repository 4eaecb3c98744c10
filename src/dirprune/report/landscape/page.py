"""The page of a landscape: one self-contained HTML file, made only from ``landscape.json``."""

from pathlib import Path

from dirprune.report.landscape import tables
from dirprune.report.landscape.panels import panels
from dirprune.report.landscape.read import Landscape, read_landscape
from dirprune.report.landscape.styles import (
    CHANCE,
    CONTROLS,
    OBD,
    PAPER,
    PATHS,
    PRUNED,
    style_of_method,
    styles_of,
)
from dirprune.report.landscape.summary import cards, lead
from dirprune.report.shared.page import LegendKey, page, pairs, write_page
from dirprune.report.shared.published import of_dimension, paper


def write_landscape_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a finished or unfinished landscape.

    Args:
        folder: Folder of ``landscape.json``.
        out: The page, by default ``report.html`` in the folder; it is replaced only once the new
            page is complete on disk.

    Raises:
        FileNotFoundError: If there is no ``landscape.json``.
        ValueError: If ``dirprune landscape`` did not write it.

    Example:
        >>> write_landscape_report(Path("here"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: here holds no landscape.json: give a folder that dirprune landscape...
    """
    return write_page(out or folder / "report.html", render(read_landscape(folder)))


def render(found: Landscape) -> str:
    """Return the page as HTML, in which all text from files is escaped."""
    styles = styles_of(found.networks)
    shown = panels(found, styles)
    drawn = {trace.legendgroup for panel in shown for trace in panel.figure.data}
    controls = (style_of_method(method, styles) for method in CONTROLS)
    every = dict.fromkeys((*styles.values(), PATHS, PRUNED, *controls, OBD, CHANCE, PAPER))
    more = (
        tables.paths(found, styles, of_dimension(found.dimension)),
        tables.one_shot(found, styles),
        tables.networks(found, styles) if found.networks else None,
        tables.published(paper().settings),
    )
    names = [network.name for network in found.networks[:2]]
    return page(
        shown,
        kind="landscape",
        title=f"Landscape: {' and '.join(names)}" if names else "Landscape",
        lead=lead(found),
        cards=cards(found),
        tables=[tables.answers(found, styles)] if found.networks else [],
        keys=[LegendKey.of(style) for style in every if style.key in drawn],
        folded=[table for table in more if table],
        details={
            "Options": pairs(found.config),
            "Plan": pairs(found.plan),
            "Seconds": [(name, f"{s:.1f}") for name, s in found.seconds.items() if s is not None],
            "Environment": pairs(found.rest),
        },
    )
