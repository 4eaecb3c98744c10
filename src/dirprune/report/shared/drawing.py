"""Layout, axes and traces of all figures."""

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.shared.numbers import Number
from dirprune.report.shared.styles import Style

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif"


def empty_figure(x: str, y: str | None, height: int = 360) -> Figure:
    """An empty figure with titled axes."""
    figure = Figure()  # type: ignore[no-untyped-call]
    lay_out(figure, height)
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def lay_out(figure: Figure, height: int) -> None:
    """Set the common layout, transparent for light and dark pages."""
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 8, "r": 12, "t": 32, "b": 8},
        font={"family": FONT, "size": 13, "color": "#404040"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a8f96", "activecolor": "#0072B2"},
        showlegend=False,  # the page has one legend for all figures
        dragmode=False,  # on a touch screen, dragging scrolls the page
        hovermode="closest",
        hoverlabel={"align": "left"},
    )
    axis = {
        "automargin": True,
        "showgrid": True,
        "gridcolor": "rgba(128,128,128,0.22)",
        "zeroline": False,
        "title_standoff": 14,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def style_options(style: Style, mode: str) -> dict[str, Any]:
    """Options that connect a trace with its style and the page's legend."""
    return {"mode": mode, "name": plain(style.label), "legendgroup": style.key}


def scatter(**trace: Any) -> dict[str, Any]:
    """A scatter trace as a dictionary."""
    return {"type": "scatter", **trace}


def curve(style: Style, points: Mapping[Any, Number], **trace: Any) -> dict[str, Any]:
    """A line through the points, or a marker if there is only one point."""
    return scatter(
        x=list(points),
        y=list(points.values()),
        **{"line": {"color": style.colour, "width": 2.5, "dash": style.dash}, **trace},
        marker={"color": style.colour, "symbol": style.symbol, "size": 8},
        **style_options(style, mode="lines" if len(points) > 1 else "markers"),
    )


def error_bar(std: Number, paint: str) -> dict[str, Any]:
    """Error bars of one standard deviation in per cent, invisible if ``std`` is None."""
    return {
        "type": "constant",
        "value": 100 * (std or 0),
        "visible": bool(std),
        "color": paint,
        "thickness": 1.5,
    }


def whole_epochs(figure: Figure, last: float) -> Figure:
    """Put ticks at whole epochs only, about eight of them."""
    rough = max(last / 8, 1.0)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return figure.update_xaxes(tick0=0, dtick=step)


def decades(values: Iterable[Number]) -> dict[str, Any]:
    """A logarithmic axis with a tick at every power of ten, or at 1, 2 and 5 of each if few."""
    known = [value for value in values if value is not None and 0 < value < math.inf]
    if not known:
        return {"type": "log"}
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def hover_template(label: str, rest: str) -> str:
    """The text shown on hover: the label in bold, then plotly's template ``rest``."""
    return f"<b>{plain(label)}</b><br>{rest}<extra></extra>"


def plain(name: str) -> str:
    """Escape a name, because plotly interprets HTML tags, and % { } in hover templates."""
    return html.escape(name, quote=False).replace("%{", "% {")
