"""One pure function a figure: from arms of runs to a plotly figure."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily
from plotly.subplots import make_subplots

from dirprune.report.runs.arms import Arm, statistic
from dirprune.report.runs.read import Histogram, Number, Summary
from dirprune.report.shared.drawing import (
    blank,
    curve,
    decades,
    error_bar,
    finite,
    lay_out,
    of_arm,
    on_hover,
    plain,
    published_points,
    remaining_percent,
    short_name,
    staircase,
)
from dirprune.report.shared.published import Published

REMAINING = (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.01)  # ticks of the sparsity axis, in %


def trajectory(arms: Sequence[Arm], quantity: str, title: str, scale: float = 1.0) -> Figure:
    """One quantity after every epoch: the mean of each arm, its seeds thin behind it.

    Args:
        arms: At least one.
        quantity: A field of :class:`~dirprune.report.runs.read.Epoch`.
        title: Of the vertical axis, with the unit.
        scale: Factor on the values, 100 for per cent.

    Returns:
        The figure; a value that is not finite leaves a gap.
    """
    figure = blank("epoch", title)
    for arm in arms:
        curves = [
            {e.epoch: finite(getattr(e, quantity), scale) for e in run.epochs}
            for run in arm.runs
            if run.epochs
        ]
        for seed in curves if len(curves) > 1 else ():
            line = {"color": arm.colour, "width": 1, "dash": arm.dash}
            figure.add_trace(curve(arm, seed, line=line, opacity=0.4, hoverinfo="skip"))
        shared = sorted(set[int]().union(*curves).intersection(*curves))
        means = {e: statistic(seed[e] for seed in curves).mean for e in shared}
        hover = on_hover(arm.label, "epoch %{x}: %{y:.4g}")
        figure.add_trace(curve(arm, means, hovertemplate=hover))
    return figure


def loss(arms: Sequence[Arm]) -> Figure:
    """Training loss after every epoch, as :func:`trajectory`, on a logarithmic scale."""
    figure = trajectory(arms, "train_loss", "train loss")
    return figure.update_yaxes(**decades(y for trace in figure.data for y in trace.y))


def accuracy_against_sparsity(arms: Sequence[Arm], published: Published | None = None) -> Figure:
    """Where every arm ends, one standard deviation each way, beside the paper's points.

    The horizontal axis is logarithmic in the share of weights that remain, so that the sparse
    end, where methods part, has room.

    Args:
        arms: Those with a finished run are drawn.
        published: Points of the paper, drawn hollow.

    Returns:
        The figure.
    """
    figure = blank("sparsity", "test accuracy, %", height=460)
    for series in published.series if published else ():
        figure.add_trace(published_points(series))
    remaining = []
    for arm in arms:
        zeros, accuracy = arm.final("sparsity"), arm.final("test_accuracy")
        height = finite(accuracy.mean, 100)
        if not arm.is_finished or zeros.mean is None or height is None:
            continue
        remaining.append(remaining_percent(zeros.mean, arm.runs[0].total))
        figure.add_scatter(
            x=remaining[-1:],
            y=[height],
            error_x=error_bar(zeros, arm.colour),
            error_y=error_bar(accuracy, arm.colour),
            marker={"symbol": arm.symbol, "size": 12, "color": arm.colour},
            hovertemplate=on_hover(arm.label, f"{zeros.mean:.2%} zeros, %{{y:.2f}} % accuracy"),
            **of_arm(arm, mode="markers"),
        )
    drawn = remaining + [x for trace in figure.data for x in trace.x]
    least = min(drawn, default=1.0)
    ticks = [share for share in REMAINING if share >= least / 2]
    figure.update_xaxes(
        type="log",
        range=[math.log10(130), math.log10(least / 1.5)],
        tickvals=ticks,
        ticktext=[f"{100 - share:g} %" for share in ticks],
    )
    return figure


def layers(arms: Sequence[Arm]) -> Figure:
    """Share of zeros in every weight matrix and filter bank, first layer on top.

    Args:
        arms: Those with a summary are drawn, each the mean of its counted runs.

    Returns:
        The figure, as tall as there are layers.
    """
    names: dict[str, None] = {}
    shares: list[dict[str, list[float]]] = []
    for arm in arms:
        share: dict[str, list[float]] = {}
        for run in arm.counted:
            for layer in run.summary.layers or () if run.summary else ():
                if len(layer.shape) > 1 and layer.total:
                    share.setdefault(layer.name, []).append(100 * layer.zeros / layer.total)
        names.update(dict.fromkeys(share))
        shares.append(share)
    order = list(names)
    figure = blank("zeros in the layer, %", None, height=110 + max(20 * len(order), 120))
    for arm, share in zip(arms, shares, strict=True):
        figure.add_scatter(
            x=[statistic(values).mean for values in share.values()],
            y=[order.index(name) for name in share],
            text=[plain(name) for name in share],
            marker={"symbol": arm.symbol, "size": 9, "color": arm.colour},
            line={"color": arm.colour, "width": 1, "dash": arm.dash},
            hovertemplate=on_hover(arm.label, "%{text}: %{x:.2f} %"),
            **of_arm(arm, mode="lines+markers"),
        )
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[plain(short_name(name)) for name in order],
        range=[len(order) - 0.5, -0.5],
        tickfont={"size": 11},
    )
    figure.update_xaxes(range=[-3, 103])
    return figure


def norm_ratio(arms: Sequence[Arm]) -> Figure:
    r"""The ratio of norms after every epoch, above its lower bound.

    .. math:: \|w\|_2 / \|w\|_1 \ge d^{-1/2}

    with equality for weights of equal magnitude, d of them; it grows as weights become sparse.

    Args:
        arms: At least one.

    Returns:
        The figure, with the bound of every d among the runs drawn in.
    """
    figure = trajectory(arms, "l2_over_l1", "‖w‖₂ / ‖w‖₁")
    for total in sorted({run.total for arm in arms for run in arm.runs if run.total}):
        figure.add_hline(
            total**-0.5,
            line={"color": "#767676", "width": 1.5, "dash": "dot"},
            annotation={
                "text": f"lower bound 1/√d, d = {total:,}",
                "yanchor": "bottom",
                "xanchor": "right",
            },
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def threshold(arms: Sequence[Arm]) -> Figure:
    """The threshold's path: step by step where the run kept it, else after every epoch.

    Args:
        arms: Those with a threshold are drawn, each by its first run.

    Returns:
        The figure.
    """
    figure = blank("epoch", "threshold g")
    for arm in arms:
        run = arm.counted[0]
        path: dict[float, Number] = {e.epoch: finite(e.threshold) for e in run.epochs}
        if run.summary and run.summary.threshold_path and run.epochs:
            steps_per_epoch = run.epochs[-1].step / run.epochs[-1].epoch or 1
            kept = run.summary.threshold_path
            path = {s / steps_per_epoch: g for s, g in zip(kept.step, kept.g, strict=True)}
        if any(g is not None for g in path.values()):
            hover = on_hover(arm.label, "epoch %{x:.4g}: g = %{y:.4g}")
            figure.add_trace(curve(arm, path, hovertemplate=hover))
    figure.update_yaxes(rangemode="tozero")
    return figure


def forecasts(arms: Sequence[Arm]) -> Figure:
    """What each epoch foretold of the final sparsity, against what came.

    Args:
        arms: Those with forecasts are drawn, each by its first run that has one.

    Returns:
        The figure: points are forecasts, lines the sparsity reached, dotted lines targets.
    """
    figure = blank("epoch", "sparsity, %")
    for arm in arms:
        run = next((r for r in arm.runs if any(e.forecast for e in r.epochs)), None)
        if run is None:
            continue
        reached = {e.epoch: finite(e.sparsity, 100) for e in run.epochs}
        hover = on_hover(arm.label, "epoch %{x}: %{y:.1f} % reached")
        figure.add_trace(curve(arm, reached, hovertemplate=hover))
        foretold = [(e.epoch, e.forecast) for e in run.epochs if e.forecast]
        figure.add_scatter(
            x=[epoch for epoch, _ in foretold],
            y=[finite(f.sparsity, 100) for _, f in foretold],
            text=["" if f.c is None else f"at c = {f.c:.4g}" for _, f in foretold],
            marker={"symbol": f"{arm.symbol}-open", "size": 10, "color": arm.colour},
            hovertemplate=on_hover(arm.label, "after epoch %{x}: %{y:.1f} % foretold %{text}"),
            **of_arm(arm, mode="markers"),
        )
        for target in sorted({f.target for _, f in foretold if f.target is not None}):
            figure.add_hline(
                100 * target,
                line={"color": arm.colour, "width": 1.5, "dash": "dot"},
                annotation={"text": f"target {100 * target:g} %", "xanchor": "right"},
            )
    return figure


def weight_histogram(arms: Sequence[Arm]) -> Figure:
    """How many weights are exactly zero, and how large the others are, on one log scale.

    Args:
        arms: Those with a histogram are drawn, each by its first counted run.

    Returns:
        The figure: zeros on the left, all other weights by value on the right.
    """
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
                hovertemplate=on_hover(arm.label, "%{y:,.0f} weights are exactly zero"),
                row=1,
                col=1,
                **of_arm(arm, mode="markers"),
            )
        figure.add_trace(staircase(arm, histogram), row=1, col=2)
    figure.update_yaxes(type="log", dtick=1, exponentformat="SI")
    figure.update_yaxes(title="number of weights", row=1, col=1)
    figure.update_xaxes(type="category", categoryarray=["= 0"], range=[-0.5, 0.5], row=1, col=1)
    figure.update_xaxes(title="value of the weights ≠ 0", row=1, col=2)
    return figure


def accumulator_histogram(arms: Sequence[Arm]) -> Figure:
    """The accumulators v behind the weights; what lies within the threshold g is cut to zero.

    Args:
        arms: Those that keep accumulators are drawn, each by its first counted run.

    Returns:
        The figure, with a dotted line at -g and at g.
    """
    figure = blank("value of the accumulator v", "number of accumulators")
    for arm in arms:
        summary = arm.counted[0].summary
        if not summary or not summary.histograms or not summary.histograms.accumulators:
            continue
        figure.add_trace(staircase(arm, summary.histograms.accumulators))
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


def _without_zeros(summary: Summary, histogram: Histogram) -> tuple[Histogram, int]:
    """The histogram of the other weights alone, and how many are exactly zero."""
    zeros = summary.zeros or 0
    counts = list(histogram.counts)
    if sum(counts) > (summary.nonzeros or 0):  # the zeros are in one of its bins
        place = min(max(bisect_right(histogram.edges, 0.0) - 1, 0), len(counts) - 1)
        counts[place] = max(counts[place] - zeros, 0)
    return Histogram(histogram.edges, tuple(counts)), zeros
