"""The loss on a plane, as a map and as a surface, with networks and paths projected on it."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.landscape.read import Grid, Numbers, Plane
from dirprune.report.landscape.styles import PATHS, PRUNED
from dirprune.report.shared.drawing import (
    FONT,
    decades,
    empty_figure,
    hover_template,
    lay_out,
    plain,
    scatter,
    style_options,
)
from dirprune.report.shared.numbers import Number
from dirprune.report.shared.styles import EDGE, Style

SCALE = "YlGnBu"  # light where the loss is low, so that lines and points are visible
INK = "#1c1e21"  # labels on the map, on light and dark pages
HALO = ", ".join(["0 0 3px #ffffff"] * 4)  # makes the labels readable on dark parts of the map
MAX_ASPECT = 4  # if the sides differ by a larger factor, the axes have different scales
ON_PLANE = 1e-6  # smaller distances from the plane are rounding errors
Overlay = tuple[str, Style, Sequence[Numbers], str, list[str]]


def loss_map(plane: Plane, styles: Mapping[str, Style], data: str) -> Figure:
    """Contours of the logarithm of the loss, with networks, curve and trajectories."""
    grid = logarithms(plane.loss[data])
    ticks = decades([10**v for row in grid for v in row if v is not None])
    places = [math.log10(tick) for tick in ticks.get("tickvals", ())]
    bar = {"tickvals": places, "ticktext": ticks.get("ticktext", []), "title": {"text": "loss"}}
    return _map(plane, styles, plane.loss[data], grid, bar)


def error_map(plane: Plane, styles: Mapping[str, Style], data: str) -> Figure:
    """The error in per cent as contours, otherwise like :func:`loss_map`."""
    grid = tuple(tuple(None if v is None else 100 * v for v in row) for row in plane.error[data])
    bar = {"title": {"text": "error, %"}, "tickmode": "auto", "nticks": 6}
    return _map(plane, styles, grid, grid, bar)


def surface(plane: Plane, styles: Mapping[str, Style], data: str) -> Figure:
    """The loss as a surface over the plane, on a logarithmic scale."""
    grid = logarithms(plane.loss[data])
    known = [v for row in grid for v in row if v is not None]
    ticks = decades([10**v for v in known])
    figure = Figure()  # type: ignore[no-untyped-call]
    lay_out(figure, 520)
    figure.add_surface(
        x=plane.x,
        y=plane.y,
        z=grid,
        text=_texts(plane.loss[data]),
        colorscale=SCALE,
        showscale=False,
        lighting={"ambient": 0.75, "diffuse": 0.5, "specular": 0.05},
        contours={"z": {"show": True, "color": "rgba(255,255,255,0.35)", "width": 1}},
        hovertemplate=hover_template("loss", "%{text}"),
    )
    lift = 0.015 * (max(known) - min(known))
    for kind, style, at, _, _ in _overlays(plane, styles):
        z = [_height(plane, grid, place) for place in at]
        if kind == "near" and z == [None]:
            continue
        flat = _style(kind, style)
        spatial = {
            "mode": flat["mode"].replace("+text", ""),
            "marker": {**flat["marker"], "size": 0.5 * flat["marker"]["size"]},
            "line": {"color": style.colour, "width": 6, "dash": flat["line"]["dash"]},
        }
        figure.add_trace(
            {
                "type": "scatter3d",
                "x": [place[0] if h is not None else None for place, h in zip(at, z, strict=True)],
                "y": [place[1] if h is not None else None for place, h in zip(at, z, strict=True)],
                "z": [None if h is None else h + lift for h in z],
                **flat,
                **spatial,
                "hoverinfo": "name",
            }
        )
    axis = {"gridcolor": "rgba(128,128,128,0.3)", "showbackground": False}
    heights = {
        "tickvals": [math.log10(tick) for tick in ticks.get("tickvals", ())],
        "ticktext": list(ticks.get("ticktext", ())),
    }
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        dragmode="turntable",
        scene={
            "xaxis": {**axis, "title": {"text": ""}, "range": [plane.x[0], plane.x[-1]]},
            "yaxis": {**axis, "title": {"text": ""}, "range": [plane.y[0], plane.y[-1]]},
            "zaxis": {**axis, "title": {"text": "loss"}, **heights},
            "aspectratio": {"x": 1, "y": min(1.0, max(0.5, 1 / _aspect(plane))), "z": 0.5},
            "camera": {"eye": {"x": 0.62, "y": -1.25, "z": 0.85}, "center": {"z": -0.12}},
        },
        font={"family": FONT, "size": 12, "color": "#404040"},
    )
    return figure


def stretch(plane: Plane) -> float:
    """Vertical divided by horizontal scale of the axes; 1 unless the figure would be too flat."""
    aspect = _aspect(plane)
    return 1.0 if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else aspect


def logarithms(grid: Grid) -> Grid:
    """log10 of finite values; values up to 0 are replaced by the smallest positive one."""
    least = min((v for row in grid for v in row if v is not None and v > 0), default=1.0)
    return tuple(
        tuple(None if v is None else math.log10(max(v, least)) for v in row) for row in grid
    )


def _map(
    plane: Plane,
    styles: Mapping[str, Style],
    values: Grid,
    grid: Grid,
    bar: dict[str, Any],
) -> Figure:
    figure = empty_figure(*_titles(plane), height=520)
    known = [v for row in grid for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    step = _round_step((high - low) / 20)
    figure.add_contour(
        x=plane.x,
        y=plane.y,
        z=grid,
        text=_texts(values),
        colorscale=SCALE,
        contours={"start": step * math.floor(low / step), "end": high, "size": step},
        line={"width": 0.5, "color": "rgba(30,40,60,0.35)"},
        colorbar={
            **bar,
            "orientation": "h",
            "thickness": 12,
            "len": 0.8,
            "outlinewidth": 0,
            "y": -0.16,
            "yanchor": "top",
        },
        hovertemplate=hover_template(bar["title"]["text"], "%{text}"),
    )
    for kind, style, at, label, texts in _overlays(plane, styles):
        place = {"x": [place[0] for place in at], "y": [place[1] for place in at]}
        options = _style(kind, style)
        if "lines" in options["mode"]:
            edge = {"color": EDGE, "width": options["line"]["width"] + 3}
            figure.add_trace(scatter(
                **place, mode="lines", line=edge, hoverinfo="skip", legendgroup=style.key
            ))  # fmt: skip
        figure.add_trace(
            scatter(
                **place,
                text=[plain(label)] if kind == "corner" else texts,
                customdata=texts,
                textposition="top center",
                textfont={"color": INK, "size": 13, "shadow": HALO},
                hovertemplate=hover_template(style.label, "%{customdata}"),
                **options,
            )
        )
    for axis, span in (("x", plane.x), ("y", plane.y)):
        figure.update_layout(
            {f"{axis}axis": {"range": [span[0], span[-1]], "constrain": "domain"}}
        )
    if stretch(plane) == 1:
        figure.update_yaxes(scaleanchor="x", constraintoward="bottom")
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def _aspect(plane: Plane) -> float:
    return (plane.x[-1] - plane.x[0]) / (plane.y[-1] - plane.y[0])  # type: ignore[operator]


def _titles(plane: Plane) -> tuple[str, str | None]:
    if plane.known:
        return "distance", None
    return "along the first direction", "along the second"


def _round_step(step: float) -> float:
    """Round up to 1, 2.5 or 5 times a power of ten."""
    if not step > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2.5, 5, 10) if factor * power >= step * 0.999)


def _style(kind: str, style: Style) -> dict[str, Any]:
    """Options of a trace of the given kind."""
    mode = {"corner": "markers+text", "near": "markers", "curve": "lines", "line": "lines"}
    size = {"corner": 12, "near": 10}.get(kind, 5)
    open_ = "-open" if kind == "near" and style.symbol not in ("cross", "x") else ""
    return {
        "line": {
            "color": style.colour,
            "width": 3 if kind == "curve" else 2,
            "dash": {"line": "dot", "track": "solid"}.get(kind, style.dash),
        },
        "marker": {
            "color": style.colour,
            "symbol": f"{style.symbol}{open_}",
            "size": size,
            "line": {"width": 2 if open_ else 1, "color": style.colour if open_ else EDGE},
        },
        **style_options(style, mode=mode.get(kind, "lines+markers")),
    }


def _overlays(plane: Plane, styles: Mapping[str, Style]) -> Iterator[Overlay]:
    """Yield everything drawn on the plane; the corners are last, so that they are on top."""
    for name, track in plane.trajectories.items():
        if name in styles and track.at:
            epochs = track.epoch or [None] * len(track.at)
            texts = [
                f"epoch {e:g}, {_distance_text(place)}" if e is not None else _distance_text(place)
                for e, place in zip(epochs, track.at, strict=False)
            ]
            yield "track", styles[name], track.at, "", texts
    if plane.line:
        at = plane.line.at
        yield "line", PATHS, at, "", ["straight line"] * len(at)
    if plane.curve:
        at = plane.curve.at
        yield "curve", PATHS, at, "", [f"curve, {_distance_text(place)}" for place in at]
    if plane.directional:
        found = plane.directional
        texts = [
            f"{s:.1%} zeros, {_distance_text(place)}" if s is not None else _distance_text(place)
            for s, place in zip(found.sparsity, found.at, strict=False)
        ]
        yield "pruned", PRUNED, found.at, "", texts
    corners = _corners(plane, styles)
    for name, place in plane.networks.items():
        if name in styles and name not in corners:
            yield "near", styles[name], [place], "", [_distance_text(place)]
    for label, (style, place) in corners.items():
        yield (
            "corner",
            style,
            [place],
            style.label if label in styles else label,
            [_distance_text(place)],
        )


def _corners(plane: Plane, styles: Mapping[str, Style]) -> dict[str, tuple[Style, Numbers]]:
    """The points that span the plane."""
    names = [*list(styles)[:2], plane.third or "third"][: len(plane.known)]
    return {
        name: (styles.get(name, PATHS), place)
        for name, place in zip(names, plane.known, strict=False)
    }


def _distance_text(place: Numbers) -> str:
    off = place[2] if len(place) > 2 else None
    return f"{off:.3g} off the plane" if off and off > ON_PLANE else "on the plane"


def _texts(values: Grid) -> list[list[str]]:
    return [["not finite" if v is None else f"{v:.4g}" for v in row] for row in values]


def _height(plane: Plane, grid: Grid, place: Numbers) -> Number:
    """Interpolate between the four grid points around a point; None outside or in a gap."""
    x, y = place[0], place[1]
    if x is None or y is None:
        return None
    column, row = _cell(plane.x, x), _cell(plane.y, y)
    if column is None or row is None:
        return None
    (i, s), (j, t) = column, row
    corners = [grid[j][i], grid[j][i + 1], grid[j + 1][i], grid[j + 1][i + 1]]
    if any(corner is None for corner in corners):
        return None
    a, b, c, d = (corner or 0.0 for corner in corners)
    return (1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * c + s * d)


def _cell(axis: Numbers, x: float) -> tuple[int, float] | None:
    """The interval that contains x, and the relative position of x in it."""
    points = [p for p in axis if p is not None]
    if not points[0] <= x <= points[-1]:
        return None
    i = min(bisect_right(points, x), len(points) - 1) - 1
    return i, (x - points[i]) / (points[i + 1] - points[i])
