"""What all figures share: their frame, their traces, their texts."""

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.runs.arms import Statistic, colour, family
from dirprune.report.runs.read import Histogram, Number
from dirprune.report.shared.published import Series

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif"


class Look(Protocol):
    """How something is drawn in every figure, and what the page's key calls it."""

    @property
    def key(self) -> str:
        """Its legend group."""

    @property
    def label(self) -> str:
        """Its name."""

    @property
    def colour(self) -> str:
        """As CSS has it."""

    @property
    def dash(self) -> str:
        """Of lines, as plotly has it."""

    @property
    def symbol(self) -> str:
        """Of points, as plotly has it."""


def blank(x: str, y: str | None, height: int = 360) -> Figure:
    """An empty figure with titled axes."""
    figure = Figure()  # type: ignore[no-untyped-call]
    lay_out(figure, height)
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def lay_out(figure: Figure, height: int) -> None:
    """The frame of every figure; transparent, so that the page decides on light or dark."""
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 8, "r": 12, "t": 32, "b": 8},
        font={"family": FONT, "size": 13, "color": "#404040"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a8f96", "activecolor": "#0072B2"},
        showlegend=False,  # one key on the page serves all figures
        dragmode=False,  # a finger on the figure scrolls the page
        hovermode="closest",
        hoverlabel={"align": "left"},
    )
    axis = {
        "automargin": True,
        "showgrid": True,
        "gridcolor": "rgba(128,128,128,0.22)",
        "zeroline": False,
        "title_standoff": 8,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


def of_arm(arm: Look, mode: str) -> dict[str, Any]:
    """What ties a trace to its arm and to the page's key."""
    return {"mode": mode, "name": plain(arm.label), "legendgroup": arm.key}


def scatter(**trace: Any) -> dict[str, Any]:
    """A trace as plotly's own dictionary."""
    return {"type": "scatter", **trace}


def curve(arm: Look, points: Mapping[Any, Number], **style: Any) -> dict[str, Any]:
    """A line through the points, or the point itself where there is but one."""
    return scatter(
        x=list(points),
        y=list(points.values()),
        **{"line": {"color": arm.colour, "width": 2.5, "dash": arm.dash}, **style},
        marker={"color": arm.colour, "symbol": arm.symbol, "size": 8},
        **of_arm(arm, mode="lines" if len(points) > 1 else "markers"),
    )


def staircase(arm: Look, histogram: Histogram) -> dict[str, Any]:
    """Counts over bins; an empty bin is a gap, for log scales have no zero."""
    bins = zip(histogram.edges, histogram.edges[1:], strict=False)
    return scatter(
        x=[(left + right) / 2 for left, right in bins],
        y=[count or None for count in histogram.counts],
        line={"color": arm.colour, "width": 2, "dash": arm.dash, "shape": "hvh"},
        hovertemplate=on_hover(arm.label, "about %{x:.3g}: %{y:,.0f}"),
        **of_arm(arm, mode="lines"),
    )


def published_points(series: Series) -> dict[str, Any]:
    """The paper's results for one method, hollow, with their spread where it was published."""
    points = series.points
    settings = [
        ", ".join(f"{n} = {v:g}" for n, v in (("c", p.c), ("μ", p.mu)) if v) for p in points
    ]
    paint = colour(series.method)
    symbol = "circle-open" if series.method == family(series.method) else "diamond-open"
    return scatter(
        x=[remaining_percent(p.sparsity, None) for p in points],
        y=[100 * p.test_accuracy for p in points],
        error_y={
            "array": [100 * (p.std or 0) for p in points],
            "visible": any(p.std for p in points),
            "color": paint,
            "thickness": 1,
        },
        text=[f"{p.sparsity:.2%} zeros<br>{s}" for p, s in zip(points, settings, strict=True)],
        marker={"symbol": symbol, "size": 9, "color": paint, "line": {"width": 1.5}},
        hovertemplate=on_hover(f"paper: {series.label}", "%{y:.2f} % accuracy, %{text}"),
        mode="markers",
        name=plain(f"paper: {series.label}"),
        legendgroup=f"paper-{series.method}",
    )


def error_bar(value: Statistic, paint: str) -> dict[str, Any]:
    """One standard deviation each way, in per cent; nothing where there is none."""
    return {
        "type": "constant",
        "value": 100 * (value.std or 0),
        "visible": bool(value.std),
        "color": paint,
        "thickness": 1.5,
    }


def decades(values: Iterable[Number]) -> dict[str, Any]:
    """A logarithmic axis with a tick at every power of ten, or at 1, 2 and 5 of each if few."""
    known = [value for value in values if value is not None and 0 < value < math.inf]
    if not known:
        return {"type": "log"}
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def remaining_percent(sparsity: float, total: int | None) -> float:
    """Per cent of the weights that are left, at least one weight for the log scale's sake."""
    return 100 * max(1 - sparsity, 1 / (total or 10**6))


def finite(value: Number, scale: float = 1.0) -> Number:
    """The scaled value, or None, which plotly draws as a gap."""
    return None if value is None or not math.isfinite(value) else scale * value


def on_hover(label: str, rest: str) -> str:
    """What a pointer reads: the label in bold, then plotly's template ``rest``."""
    return f"<b>{plain(label)}</b><br>{rest}<extra></extra>"


def plain(name: str) -> str:
    """A name as plain text, for plotly reads HTML tags, and % { } in hover templates."""
    return html.escape(name, quote=False).replace("%{", "% {")


def short_name(name: str) -> str:
    """A parameter's name that leaves room for the figure on a phone."""
    name = name.removesuffix(".weight")
    return name if len(name) <= 22 else f"…{name[-21:]}"
