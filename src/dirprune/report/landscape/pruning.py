"""One-shot directional pruning of the dense network: scores and test errors."""

from collections.abc import Mapping, Sequence

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.landscape.read import Pruned, Sample
from dirprune.report.landscape.styles import DASHES, PRUNED, style_of_method
from dirprune.report.shared.drawing import (
    curve,
    decades,
    empty_figure,
    hover_template,
    scatter,
    style_options,
)
from dirprune.report.shared.numbers import finite
from dirprune.report.shared.styles import GREY, Style


def scores(sample: Sample) -> Figure:
    """Scores of weights against their magnitudes."""
    figure = empty_figure("|w|", "score s", height=420)
    figure.add_trace(
        scatter(
            x=[w or None for w in sample.w],
            y=list(sample.s),
            marker={"color": PRUNED.colour, "size": 4, "opacity": 0.35},
            hovertemplate=hover_template("coordinate", "|w| = %{x:.3g}, s = %{y:.3g}"),
            **style_options(PRUNED, mode="markers"),
        )
    )
    level = {"color": GREY, "width": 1.5, "dash": "dot"}
    figure.add_hline(0, line=level)
    figure.add_hline(1, line=level, annotation={"text": "1: soft threshold", "xanchor": "right"})
    return figure.update_xaxes(**decades(sample.w))


def one_shot(table: Sequence[Pruned], styles: Mapping[str, Style]) -> Figure:
    """Test error against sparsity, without training after pruning."""
    figure = empty_figure("zeros, %", "test error, %", height=420)
    ranks = sorted({row.k or 0 for row in table if row.method == "directional"})
    for method, k in dict.fromkeys((row.method, row.k) for row in table):
        style = style_of_method(method, styles)
        rows = [row for row in table if (row.method, row.k) == (method, k)]
        own = {finite(row.sparsity, 100): finite(_error(row), 100) for row in rows}
        new = {finite(row.sparsity, 100): finite(_refreshed(row), 100) for row in rows}
        name = f"{style.label}{f', k = {k}' if k is not None else ''}"
        dash = DASHES[ranks.index(k or 0) % len(DASHES)] if method == "directional" else style.dash
        for points, width, pattern, which in ((own, 2.5, dash, ""), (new, 1.5, "dot", ", new BN")):
            if any(y is not None for y in points.values()):
                figure.add_trace(
                    curve(
                        style,
                        points,
                        line={"color": style.colour, "width": width, "dash": pattern},
                        hovertemplate=hover_template(f"{name}{which}", "%{x:.4g} %: %{y:.4g} %"),
                    )
                )
    return figure


def _error(row: Pruned) -> float | None:
    return row.test.error if row.test else None


def _refreshed(row: Pruned) -> float | None:
    found = (row.refreshed or {}).get("test")
    return found.error if found else None
