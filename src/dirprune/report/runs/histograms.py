"""Histograms of weights and accumulators at the end of a run."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily
from plotly.subplots import make_subplots

from dirprune.report.runs.arms import Arm
from dirprune.report.runs.read import Histogram, RunSummary
from dirprune.report.shared.drawing import (
    empty_figure,
    hover_template,
    lay_out,
    scatter,
    style_options,
)
from dirprune.report.shared.numbers import finite


def weight_histogram(arms: Sequence[Arm]) -> Figure:
    """Number of zero weights, and histogram of the other weights, on one logarithmic scale."""
    figure: Figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.16, 0.84],
        horizontal_spacing=0.03,
    )
    lay_out(figure, 400)
    for arm in arms:
        summary = arm.counted[0].summary
        if not summary or not summary.histograms or not summary.histograms.weights:
            continue
        histogram, zeros = _without_zeros(summary, summary.histograms.weights)
        if zeros:
            figure.add_scatter(
                x=["= 0"],
                y=[zeros],
                marker={"symbol": arm.symbol, "size": 11, "color": arm.colour},
                hovertemplate=hover_template(arm.label, "%{y:,.0f} weights are exactly zero"),
                row=1,
                col=1,
                **style_options(arm, mode="markers"),
            )
        figure.add_trace(_staircase(arm, histogram), row=1, col=2)
    figure.update_yaxes(type="log", dtick=1, exponentformat="SI")
    figure.update_yaxes(title="number of weights", row=1, col=1)
    figure.update_xaxes(type="category", categoryarray=["= 0"], range=[-0.5, 0.5], row=1, col=1)
    figure.update_xaxes(title="value of the weights ≠ 0", row=1, col=2)
    return figure


def accumulator_histogram(arms: Sequence[Arm]) -> Figure:
    """Histogram of the accumulators v; values within the threshold g give zero weights."""
    figure = empty_figure("value of the accumulator v", "number of accumulators")
    for arm in arms:
        summary = arm.counted[0].summary
        if not summary or not summary.histograms or not summary.histograms.accumulators:
            continue
        figure.add_trace(_staircase(arm, summary.histograms.accumulators))
        g = finite(summary.threshold)
        for bound, name in ((-g, "−g"), (g, "g")) if g else ():
            figure.add_vline(
                bound,
                line={"color": arm.colour, "width": 1.5, "dash": "dot"},
                annotation={"text": name},
                annotation_position="top",
            )
    figure.update_yaxes(type="log", dtick=1, exponentformat="SI")
    return figure


def _staircase(arm: Arm, histogram: Histogram) -> dict[str, Any]:
    """Counts over bins; an empty bin is a gap, because a log scale has no zero."""
    bins = zip(histogram.edges, histogram.edges[1:], strict=False)
    return scatter(
        x=[(left + right) / 2 for left, right in bins],
        y=[count or None for count in histogram.counts],
        line={"color": arm.colour, "width": 2, "dash": arm.dash, "shape": "hvh"},
        hovertemplate=hover_template(arm.label, "about %{x:.3g}: %{y:,.0f}"),
        **style_options(arm, mode="lines"),
    )


def _without_zeros(summary: RunSummary, histogram: Histogram) -> tuple[Histogram, int]:
    """The histogram of the nonzero weights, and the number of zeros."""
    zeros = summary.zeros or 0
    counts = list(histogram.counts)
    if sum(counts) > (summary.nonzeros or 0):  # the zeros are in one of its bins
        place = min(max(bisect_right(histogram.edges, 0.0) - 1, 0), len(counts) - 1)
        counts[place] = max(counts[place] - zeros, 0)
    return Histogram(histogram.edges, tuple(counts)), zeros
