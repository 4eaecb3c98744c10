"""Parts of a page: the template, the figures as JSON, the legend and the file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily
from plotly.offline.offline import get_plotlyjs

from dirprune._support.files import writing
from dirprune.report.shared.describing import described
from dirprune.report.shared.published import paper
from dirprune.report.shared.styles import EDGE, NIGHT, NIGHT_EDGE, Style

LINE = "M1 5H29"
BASIC = {"scatter", "bar", "pie"}
"""Trace types in plotly's basic bundle, whose size is a quarter of the full library's."""


@dataclass(frozen=True)
class Panel:
    """A figure with its heading and caption; ``name`` is its anchor on the page.

    ``reference`` names the paper's own figures, such as "Figures 4 and 7".
    """

    name: str
    title: str
    caption: str
    figure: Figure
    reference: str = ""

    @property
    def json(self) -> Markup:
        """The figure as JSON for plotly.js, escaped for the script element."""
        text: str = self.figure.to_json()  # type: ignore[no-untyped-call]
        return Markup(text.replace("<", "\\u003c"))

    @property
    def description(self) -> str:
        """A text description of the figure, for screen readers."""
        return described(self.title, self.figure)


@dataclass(frozen=True)
class LegendKey:
    """An entry of the common legend of all figures, for the traces of a legend group.

    ``path`` is an SVG path: a line in the style's dash pattern, or the outline of a published
    point.
    """

    group: str
    label: str
    colour: str
    path: str = LINE
    dash: str = ""

    @classmethod
    def of(cls, style: Style) -> "LegendKey":
        """Return the entry of a style, as a line."""
        return cls(style.key, style.label, style.colour, LINE, _dash_pattern(style.dash))


@dataclass(frozen=True)
class Card:
    """One main number, with its label and a reference for comparison."""

    title: str
    value: str
    note: str = ""


def page(panels: Sequence[Panel], **values: Any) -> str:
    """Fill the template.

    Args:
        panels: The figures, in order.
        **values: The other variables of the template.

    Returns:
        HTML in which all text from files is escaped.
    """
    environment = Environment(
        loader=PackageLoader("dirprune.report.shared", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filled: str = environment.get_template("page.html.jinja").render(
        panels=panels,
        paper=paper(),
        plotly=Markup(_plotly(panels)),
        night={**NIGHT, EDGE: NIGHT_EDGE},
        **values,
    )
    return filled


def pairs(record: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Flatten a nested object to dotted names and texts, without nulls."""
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


def write_page(path: Path, text: str) -> Path:
    """Write the page atomically, through a temporary file in the same folder."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _plotly(panels: Sequence[Panel]) -> str:
    """Return the smallest bundle of plotly.js that can draw the figures."""
    if not panels:
        return ""
    if {trace.type for panel in panels for trace in panel.figure.data} <= BASIC:
        place = files("dirprune.report.shared").joinpath("plotly/plotly-basic.min.js")
        return place.read_text(encoding="utf-8")
    full: str = get_plotlyjs()  # type: ignore[no-untyped-call]
    return full


def _dash_pattern(dash: str) -> str:
    """Convert a plotly dash to SVG."""
    patterns = {"dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "10 4"}
    return patterns.get(dash, "" if dash == "solid" else "10 3 2 3")
