"""One pure function per figure, from arms of runs to a plotly figure."""

import math
from collections.abc import Sequence
from typing import Any

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.runs.arms import Arm, statistic
from dirprune.report.shared.drawing import (
    curve,
    decades,
    empty_figure,
    error_bar,
    hover_template,
    plain,
    scatter,
    style_options,
    whole_epochs,
)
from dirprune.report.shared.numbers import Number, finite
from dirprune.report.shared.published import Series, Setting
from dirprune.report.shared.styles import GREY, colour, family

REMAINING = (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.01)  # ticks of the sparsity axis, in %
REMAINING_IF_DENSE = (100, 98, 96, 94, 92, 90, 85, 80, 70, 60, 50)


def trajectory(arms: Sequence[Arm], quantity: str, title: str, scale: float = 1.0) -> Figure:
    """One quantity after every epoch: the mean of each arm, with thin lines for the seeds."""
    figure = empty_figure("epoch", title)
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
        hover = hover_template(arm.label, "epoch %{x}: %{y:.4g}")
        figure.add_trace(curve(arm, means, hovertemplate=hover))
    return whole_epochs(figure, _last_epoch(arms))


def loss(arms: Sequence[Arm]) -> Figure:
    """Training loss after every epoch, like :func:`trajectory`, on a logarithmic scale."""
    figure = trajectory(arms, "train_loss", "train loss")
    return figure.update_yaxes(**decades(y for trace in figure.data for y in trace.y))


def accuracy_against_sparsity(arms: Sequence[Arm], published: Setting | None = None) -> Figure:
    """Final accuracy against sparsity with one standard deviation, and the paper's points.

    The horizontal axis is logarithmic in the share of nonzero weights, so that the sparse end,
    where methods differ, has enough space.
    """
    figure = empty_figure("sparsity", "test accuracy, %", height=460)
    for series in published.series if published else ():
        figure.add_trace(_published_points(series))
    remaining: list[float] = []
    points: list[list[float]] = []
    for arm in arms:
        zeros, accuracy = arm.final("sparsity"), arm.final("test_accuracy")
        height = finite(accuracy.mean, 100)
        if not arm.is_finished or zeros.mean is None or height is None:
            continue
        remaining.append(_remaining_percent(zeros.mean, arm.runs[0].total))
        points.append([remaining[-1], height])
        figure.add_scatter(
            x=remaining[-1:],
            y=[height],
            text=[f"{zeros.mean:.2%} zeros"],
            error_x=error_bar(zeros.std, arm.colour),
            error_y=error_bar(accuracy.std, arm.colour),
            marker=_marker(arm, 12, points),
            hovertemplate=hover_template(
                arm.label, f"{zeros.mean:.2%} zeros, %{{y:.2f}} % accuracy"
            ),
            **style_options(arm, mode="markers"),
        )
    drawn = remaining + [x for trace in figure.data for x in trace.x]
    least = min(drawn, default=1.0)
    margin = max(0.08 * math.log10(100 / least), 0.01)
    ticks = REMAINING if least < 45 else REMAINING_IF_DENSE
    figure.update_xaxes(
        type="log",
        range=[2 + margin, math.log10(least) - margin],
        tickvals=ticks,
        ticktext=[f"{100 - share:g} %" for share in ticks],
    )
    return figure


def layers(arms: Sequence[Arm]) -> Figure:
    """Share of zeros in every weight matrix and filter bank, first layer on top."""
    names: dict[str, None] = {}
    shares: list[dict[str, list[float]]] = []
    for arm in arms:
        share: dict[str, list[float]] = {}
        for run in arm.counted:
            for layer in run.summary.layers or () if run.summary else ():
                if len(layer.shape) > 1 and layer.total:
                    share.setdefault(layer.title, []).append(100 * layer.zeros / layer.total)
        names.update(dict.fromkeys(share))
        shares.append(share)
    order = list(names)
    figure = empty_figure("zeros in the layer, %", None, height=110 + max(20 * len(order), 120))
    points: list[list[float]] = []
    for arm, share in zip(arms, shares, strict=True):
        means = [statistic(values).mean for values in share.values()]
        points.append([math.nan if mean is None else mean for mean in means])
        figure.add_scatter(
            x=means,
            y=[order.index(name) for name in share],
            text=[plain(name) for name in share],
            marker=_marker(arm, 9, points),
            line={"color": arm.colour, "width": 1, "dash": arm.dash},
            hovertemplate=hover_template(arm.label, "%{text}: %{x:.2f} %"),
            **style_options(arm, mode="lines+markers"),
        )
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[plain(name) for name in order],
        range=[len(order) - 0.5, -0.5],
        tickfont={"size": 11},
    )
    figure.update_xaxes(range=[-3, 103])
    return figure


def norm_ratio(arms: Sequence[Arm]) -> Figure:
    r"""The ratio of norms after every epoch, above its lower bound.

    .. math:: \|w\|_2 / \|w\|_1 \ge d^{-1/2}

    with equality for weights of equal magnitude, d of them; it grows as weights become sparse.
    """
    figure = trajectory(arms, "l2_over_l1", "‖w‖₂ / ‖w‖₁")
    for total in sorted({run.total for arm in arms for run in arm.runs if run.total}):
        figure.add_hline(
            total**-0.5,
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            annotation={
                "text": f"lower bound 1/√d, d = {total:,}",
                "yanchor": "top",  # below the line: the dense network's ratio is just above it
                "xanchor": "right",
            },
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def threshold(arms: Sequence[Arm]) -> Figure:
    """The path of the threshold: per step if the run stored it, otherwise per epoch."""
    figure = empty_figure("epoch", "threshold g")
    for arm in arms:
        run = arm.counted[0]
        path: dict[float, Number] = {e.epoch: finite(e.threshold) for e in run.epochs}
        if run.summary and run.summary.threshold_path and run.epochs:
            steps_per_epoch = run.epochs[-1].step / run.epochs[-1].epoch or 1
            kept = run.summary.threshold_path
            path = {s / steps_per_epoch: g for s, g in zip(kept.step, kept.g, strict=True)}
        if any(g is not None for g in path.values()):
            hover = hover_template(arm.label, "epoch %{x:.4g}: g = %{y:.4g}")
            figure.add_trace(curve(arm, path, hovertemplate=hover))
    figure.update_yaxes(rangemode="tozero")
    return whole_epochs(figure, _last_epoch(arms))


def _marker(arm: Arm, size: int, points: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the marker of the last points: rings around earlier ones at the same place."""
    *earlier, last = points
    hidden = sum(
        len(other) == len(last)
        and all(math.isclose(a, b, rel_tol=2e-3, abs_tol=0.05)
                for a, b in zip(other, last, strict=True))
        for other in earlier
    )  # fmt: skip
    if not hidden:
        return {"symbol": arm.symbol, "size": size, "color": arm.colour, "opacity": 0.9}
    ring = {"symbol": f"{arm.symbol}-open", "size": size + 8 * hidden, "color": arm.colour}
    return {**ring, "line": {"width": 2}}


def _last_epoch(arms: Sequence[Arm]) -> int:
    return max((run.epochs[-1].epoch for arm in arms for run in arm.runs if run.epochs), default=1)


def _remaining_percent(sparsity: float, total: int | None) -> float:
    """Nonzero weights in per cent, at least one weight, because a log scale has no zero."""
    return 100 * max(1 - sparsity, 1 / (total or 10**6))


def _published_points(series: Series) -> dict[str, Any]:
    """The paper's results for one method as hollow points, with the published spread if any."""
    points = series.points
    settings = [
        ", ".join(f"{n} = {v:g}" for n, v in (("c", p.c), ("μ", p.mu)) if v) for p in points
    ]
    paint = colour(series.method)
    symbol = "circle-open" if series.method == family(series.method) else "diamond-open"
    return scatter(
        x=[_remaining_percent(p.sparsity, None) for p in points],
        y=[100 * p.test_accuracy for p in points],
        error_y={
            "array": [100 * (p.std or 0) for p in points],
            "visible": any(p.std for p in points),
            "color": paint,
            "thickness": 1,
        },
        text=[f"{p.sparsity:.2%} zeros<br>{s}" for p, s in zip(points, settings, strict=True)],
        marker={"symbol": symbol, "size": 9, "color": paint, "line": {"width": 1.5}},
        hovertemplate=hover_template(f"paper: {series.label}", "%{y:.2f} % accuracy, %{text}"),
        mode="markers",
        name=plain(f"paper: {series.label}"),
        legendgroup=f"paper-{series.method}",
    )
