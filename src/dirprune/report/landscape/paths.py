"""Figures along the lines and curves to the dense network."""

from collections.abc import Callable, Mapping

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily
from plotly.subplots import make_subplots

from dirprune.report.landscape.read import Numbers, PathRecord, PathsToDense
from dirprune.report.shared.drawing import decades, hover_template, lay_out, scatter, style_options
from dirprune.report.shared.numbers import finite
from dirprune.report.shared.styles import Style

WHERE = "t: the network (0) to D (1)"


def two_rows(upper: str, lower: str, x: str, height: int = 600, **style: object) -> Figure:
    """An empty figure with two subplots, one above the other."""
    figure: Figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, **style
    )
    lay_out(figure, height)
    figure.update_yaxes(title=upper, row=1, col=1)
    figure.update_yaxes(title=lower, row=2, col=1)
    figure.update_xaxes(title=x, row=2, col=1)
    return figure


def profiles(
    pairs: Mapping[str, PathsToDense],
    styles: Mapping[str, Style],
    choose: Callable[[PathsToDense], PathRecord | None],
) -> Figure:
    """Loss on a logarithmic scale and error in per cent, for all networks."""
    figure = two_rows("loss", "error, %", WHERE)
    heights: list[float | None] = []
    for name, pair in pairs.items():
        path = choose(pair)
        if path is None:
            continue
        for row, (quantities, scale) in enumerate(((path.loss, 1), (path.error, 100)), start=1):
            for data in ("test", "train"):
                if data not in quantities:
                    continue
                values = [finite(v, scale) for v in quantities[data].values]
                heights += values if row == 1 else []
                trace = _line(styles[name], path.t, values, data)
                figure.add_trace(trace, row=row, col=1)
    figure.update_yaxes(**decades(heights), row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=2, col=1)
    return figure


def zeros(pairs: Mapping[str, PathsToDense], styles: Mapping[str, Style]) -> Figure:
    """Exact zeros along a path, and the norm of the weights that are zero at the sparser end."""
    figure = two_rows("exact zeros, %", "norm at the zeros, %", WHERE, height=520)
    for name, pair in pairs.items():
        for path, kind in ((pair.line, "line"), (pair.bezier, "curve")):
            if path is None or path.off_face is None:
                continue
            for row, values in enumerate((path.zeros, path.off_face), start=1):
                shares = [finite(v, 100) for v in values]
                figure.add_trace(_line(styles[name], path.t, shares, kind), row=row, col=1)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _line(style: Style, t: Numbers, values: list[float | None], which: str) -> dict[str, object]:
    main = which in ("train", "curve")
    return scatter(
        x=list(t),
        y=values,
        line={
            "color": style.colour,
            "width": 2.5 if main else 1.5,
            "dash": style.dash if main else "dot",
        },
        hovertemplate=hover_template(f"{style.label}, {which}", "t = %{x:.3f}: %{y:.4g}"),
        **style_options(style, mode="lines"),
    )
