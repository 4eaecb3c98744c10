"""The density of the Hessian's spectrum, and the energy of directions in it."""

import math
from collections.abc import Mapping, Sequence

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.landscape.paths import two_rows
from dirprune.report.landscape.read import Density, DirectionSpectrum, MomentRecord, Spectrum
from dirprune.report.landscape.styles import CHANCE, PAPER
from dirprune.report.shared.drawing import (
    curve,
    decades,
    empty_figure,
    hover_template,
    plain,
    scatter,
    style_options,
    whole_epochs,
)
from dirprune.report.shared.numbers import Number, finite
from dirprune.report.shared.published import Setting
from dirprune.report.shared.styles import Style

FINE = 1e-4  # times the largest eigenvalue: below it the axis is linear, above it logarithmic
LEAST = 1e-9  # smaller shares of energy are not drawn
BELL = 0.12  # standard deviation of the Gaussian of a node, in units of the axis


def spectrum(found: Spectrum, styles: Mapping[str, Style]) -> Figure:
    r"""The density of eigenvalues on an axis that is linear around 0 and logarithmic beyond.

    .. math:: u = \operatorname{asinh}(t / s), \qquad
        \phi(u) = \frac1K \sum_{kj} \omega_{kj}\, \mathcal N(u; u(\theta_{kj}), \sigma^2)
    """
    figure = two_rows(
        "eigenvalues per unit of the axis",
        "",
        "eigenvalue (axis linear near 0)",
        height=500,
        row_heights=[0.76, 0.24],
    )
    nodes = [t for row in found.density.nodes for t in row if t] if found.density else []
    tops = {name: values for name, values in found.top_of.items() if name in styles}
    if found.eigenvalues:
        tops = {next(iter(styles)): found.eigenvalues, **tops}
    seen = [*nodes, *(t for values in tops.values() for t in values if t)]
    s = FINE * max(map(abs, seen), default=1.0)
    if found.density:
        grid = [math.asinh(min(nodes) / s) - 0.5, math.asinh(max(nodes) / s) + 0.5]
        us = [grid[0] + (grid[1] - grid[0]) * i / 400 for i in range(401)]
        style = next(iter(styles.values()))
        heights = _smoothed_density(found.density, us, s)
        figure.add_trace(
            scatter(
                x=us,
                y=[v if v > 1e-6 * max(heights) else None for v in heights],
                customdata=[s * math.sinh(u) for u in us],
                line={"color": style.colour, "width": 2},
                hovertemplate=hover_template("density", "at %{customdata:.3g}: %{y:.3g}"),
                **style_options(style, mode="lines"),
            ),
            row=1,
            col=1,
        )
    for name, values in tops.items():
        style = styles[name]
        figure.add_trace(
            scatter(
                x=[None if t is None else math.asinh(t / s) for t in values],
                y=[plain(style.label)] * len(values),
                customdata=list(values),
                marker={
                    "symbol": "line-ns",
                    "size": 16,
                    "line": {"width": 2, "color": style.colour},
                },
                hovertemplate=hover_template(style.label, "λ = %{customdata:.4g}"),
                **style_options(style, mode="markers"),
            ),
            row=2,
            col=1,
        )
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    figure.update_xaxes(**_ticks(seen, s))
    return figure


def energy(of: Mapping[str, DirectionSpectrum], styles: Mapping[str, Style]) -> Figure:
    """Bounds of the share of a direction's energy in eigenvalues above t, as a band."""
    figure = empty_figure("eigenvalue t", "energy above t, share", height=460)
    bands = {name: above(seen) for name, seen in of.items() if name in styles}
    positive = [v for band in bands.values() for _, *pair in band for v in pair if v > 0]
    floor = max(min(positive, default=LEAST) / 2, LEAST)
    for name, band in bands.items():
        style = styles[name]
        band = [row for row in band if row[2] > floor]
        t = [place for place, _, _ in band]
        low, high = ([max(row[i], floor) for row in band] for i in (1, 2))
        texts = [f"{lower:.3g} to {upper:.3g} above {place:.3g}" for place, lower, upper in band]
        for values, fill in ((low, None), (high, "tonexty")):
            figure.add_trace(
                scatter(
                    x=t,
                    y=values,
                    fill=fill,
                    fillcolor=_faint(style.colour),
                    line={"color": style.colour, "width": 1.5, "dash": style.dash},
                    text=texts,
                    hovertemplate=hover_template(style.label, "%{text}"),
                    **style_options(style, mode="lines"),
                )
            )
    _log_axes(figure)
    return figure.update_yaxes(autorange=True)


def above(seen: DirectionSpectrum) -> list[tuple[float, float, float]]:
    """Bounds of the share above each positive threshold: (t, lower, upper)."""
    return [
        (t, 1 - pair[1], 1 - pair[0])
        for t, pair in zip(seen.t or (), seen.below or (), strict=False)
        if t is not None and t > 0 and pair[0] is not None and pair[1] is not None
    ]


def ratios(found: Spectrum, styles: Mapping[str, Style]) -> Figure:
    """Share of each direction in the k sharpest directions, and that of a random direction."""
    figure = empty_figure("k sharpest directions", "|P(w − D)| / |w − D|", height=420)
    for name, values in found.weights_ratios.items():
        if name in list(styles)[:2]:
            style = styles[name]
            figure.add_trace(
                curve(
                    style,
                    {i + 1: finite(v) for i, v in enumerate(values)},
                    line={"color": style.colour, "width": 1.5, "dash": "dot"},
                    hovertemplate=hover_template(
                        f"weights of {style.label}", "k = %{x}: %{y:.3g}"
                    ),
                )
            )
    if found.chance:
        figure.add_trace(
            curve(
                CHANCE,
                {i + 1: v for i, v in enumerate(found.chance)},
                hovertemplate=hover_template("chance", "k = %{x}: %{y:.3g}"),
            )
        )
    for name, seen in found.of.items():
        if seen.ratios and name in styles:
            style = styles[name]
            figure.add_trace(
                curve(
                    style,
                    {i + 1: finite(v) for i, v in enumerate(seen.ratios)},
                    hovertemplate=hover_template(style.label, "k = %{x}: %{y:.3g}"),
                )
            )
    _log_axes(figure)
    return figure


def over_training(
    moments: Sequence[MomentRecord],
    level: Number,
    styles: Mapping[str, Style],
    paper: Setting | None,
) -> Figure:
    """Projection ratios at checkpoints, that of a random direction, and the paper's if known."""
    figure = empty_figure(
        "epoch", f"|P(w − D)| / |w − D|, k = {len(moments[0].values)}", height=420
    )
    for series in paper.ratios if paper else ():
        points: dict[float, Number] = dict(zip(series.epochs, series.ratios, strict=True))
        hover = hover_template(f"paper, μ = {series.mu:g}", "epoch %{x}: %{y:.3g}")
        figure.add_trace(curve(PAPER, points, hovertemplate=hover))
    if level is not None:
        ends = dict.fromkeys((moments[0].epoch, moments[-1].epoch), level)
        figure.add_trace(curve(CHANCE, ends, hovertemplate=hover_template("chance", "%{y:.3g}")))
    for name, style in styles.items():
        points = {m.epoch: finite(m.ratios[name]) for m in moments if name in m.ratios}
        if points:
            hover = hover_template(style.label, "epoch %{x:.4g}: %{y:.3g}")
            figure.add_trace(curve(style, points, hovertemplate=hover))
    figure.update_yaxes(**decades(y for trace in figure.data for y in trace.y))
    return whole_epochs(figure, moments[-1].epoch)


def _log_axes(figure: Figure) -> None:
    figure.update_xaxes(**decades(x for trace in figure.data for x in trace.x))
    figure.update_yaxes(**decades(y for trace in figure.data for y in trace.y))


def _smoothed_density(density: Density, us: list[float], s: float) -> list[float]:
    total = [0.0] * len(us)
    height = 1 / (BELL * math.sqrt(2 * math.pi) * len(density.nodes))
    step = us[1] - us[0]
    for nodes, weights in zip(density.nodes, density.weights, strict=True):
        for node, weight in zip(nodes, weights, strict=True):
            if not weight or node is None:
                continue
            centre = math.asinh(node / s)
            first = max(0, int((centre - 6 * BELL - us[0]) / step))
            last = min(len(us), int((centre + 6 * BELL - us[0]) / step) + 2)
            for i in range(first, last):
                total[i] += weight * height * math.exp(-0.5 * ((us[i] - centre) / BELL) ** 2)
    return total


def _ticks(seen: list[float], s: float) -> dict[str, object]:
    """Powers of ten on both sides of 0, outside the linear part of the axis."""
    first = math.ceil(math.log10(s) + 0.5)
    ticks = [0.0]
    for sign, largest in ((-1, -min(seen, default=0.0)), (1, max(seen, default=0.0))):
        if largest > 0:
            powers = range(first, math.floor(math.log10(largest)) + 1)
            ticks += [sign * 10.0**power for power in powers]
    return {
        "tickvals": [math.asinh(t / s) for t in ticks],
        "ticktext": [f"{t:g}".replace("-", "−") for t in ticks],
    }


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
