"""What every page is made of: its template, its figures as HTML, its key, its file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily
from plotly.offline.offline import get_plotlyjs

from dirprune._support.files import writing
from dirprune.report.shared.published import citation

CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}
LINE = "M1 5H29"


@dataclass(frozen=True)
class Panel:
    """A figure with its heading and caption; ``name`` is its anchor on the page."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Key:
    """An entry of the page's one key to all figures, for the traces of a legend group.

    ``path`` is SVG's: a line in the arm's dash pattern, or the outline of a published point.
    """

    group: str
    label: str
    colour: str
    path: str
    dash: str = ""


def page(name: str, panels: list[Panel], **values: Any) -> str:
    """Fill a template.

    Args:
        name: Of the template, from this package.
        panels: Its figures, in their order.
        **values: What else it shows.

    Returns:
        HTML in which everything that came from a file is escaped.
    """
    environment = Environment(
        loader=PackageLoader("dirprune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filled: str = environment.get_template(name).render(
        panels=[(panel, _div(f"figure-{panel.name}", panel.figure)) for panel in panels],
        citation=citation(),
        plotly=Markup(get_plotlyjs()),  # type: ignore[no-untyped-call]
        **values,
    )
    return filled


def pairs(record: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """A nested object as dotted names and texts, nulls left out."""
    found = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += pairs(value, f"{above}{key}.")
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            found.append((f"{above}{key}", " ".join(value)))
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            found.append((f"{above}{key}", text))
    return found


def stroke(dash: str) -> str:
    """A plotly dash as an SVG dash pattern of the same look."""
    patterns = {"dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "10 4"}
    return patterns.get(dash, "" if dash == "solid" else "10 3 2 3")


def write_page(path: Path, text: str) -> Path:
    """Through a temporary file in the same folder, so that no reader sees half a page."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for the report: make it first")
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _div(name: str, figure: Figure) -> Markup:
    """Plotly's element and script; its JSON has <, > and / escaped, so nothing breaks out."""
    drawn = figure.to_html(  # type: ignore[no-untyped-call]
        full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG
    )
    return Markup(drawn)
