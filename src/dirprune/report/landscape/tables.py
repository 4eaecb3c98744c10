"""The tables of the page: one row per network, path or pruned network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dirprune.report.landscape.measures import (
    barrier,
    direction_spectrum,
    energy_bounds,
    energy_threshold,
    error_of,
    sharp_share,
    times_chance,
)
from dirprune.report.landscape.read import (
    Landscape,
    MeasuredRecord,
    NetworkRecord,
    PathRecord,
    ProfileRecord,
    Pruned,
)
from dirprune.report.landscape.styles import PAPER, style_of_method
from dirprune.report.shared.numbers import MISSING, Number, brief
from dirprune.report.shared.published import Setting
from dirprune.report.shared.styles import Style
from dirprune.report.shared.tables import Columns, Table, TableRow, tabulate

Styles = Mapping[str, Style]


def answers(found: Landscape, styles: Styles) -> Table:
    """Barriers between each network and D, and its share of D's sharp directions."""
    t = energy_threshold(found)
    k = len(found.hessian.chance) if found.hessian and found.hessian.chance else 0

    def on_path(network: NetworkRecord, kind: str, quantity: str, data: str) -> str:
        ways = found.curve.get(network.name)
        path = (ways.line if kind == "line" else ways.bezier) if ways else None
        return _barrier(path, quantity, data)

    def energy(network: NetworkRecord) -> str:
        bounds = energy_bounds(found, network.name, t) if t else None
        return f"{brief(100 * bounds[0])} to {brief(100 * bounds[1])}" if bounds else MISSING

    def curvature(network: NetworkRecord) -> str:
        direction = direction_spectrum(found, network.name)
        return brief(direction.rayleigh) if direction else MISSING

    columns: Columns[NetworkRecord] = {
        "zeros, %": lambda n: _cell(n.zeros, 100),
        "distance to D": lambda n: brief(n.distance),
        "test error, %": lambda n: _cell(error_of(n), 100),
        "line: barrier of train loss": lambda n: on_path(n, "line", "loss", "train"),
        "curve: barrier of train loss": lambda n: on_path(n, "curve", "loss", "train"),
        "curve: barrier of test error, points": lambda n: on_path(n, "curve", "error", "test"),
        f"in the {k} sharpest, share": lambda n: _known(sharp_share(found, n.name)),
        "times chance": lambda n: _known(times_chance(found, n.name)),
        "mean curvature": curvature,
        f"energy above {brief(t)}, %": energy,
    }
    note = (
        "D is the dense reference, G the sparse network. Barrier: largest excess of the values on"
        " the path to D over linear interpolation between its ends; if G's barrier is not above"
        " those of other runs, G is as well connected to D as they are. H is the Hessian at D, P"
        " the projection on its sharpest directions. Share: |P(w − D)| / |w − D|. Times chance:"
        " share / √(k/d), the share of a random direction. Mean curvature: (w − D)ᵀH(w − D) /"
        " |w − D|². Energy: rigorous bounds of the share of |w − D|² in eigenvalues above a"
        " hundredth of the largest."
    )
    items = _with_styles(found.networks[1:], styles)
    return tabulate("Valley and sharp directions", "network", columns, items, note)


def networks(found: Landscape, styles: Styles) -> Table:
    """Origin, loss and error of every network."""
    columns: Columns[NetworkRecord] = {
        "role": lambda n: {"dense": "D", "sparse": "G"}.get(n.role, n.role),
        "method": lambda n: n.method or MISSING,
        "seed": lambda n: MISSING if n.seed is None else str(n.seed),
        "batch seed": lambda n: MISSING if n.batch_seed is None else str(n.batch_seed),
        "norm": lambda n: brief(n.norm),
        "train loss, stored": lambda n: _loss(n.stored, "train"),
        "train loss, measured": lambda n: _loss(n.measured, "train"),
        "test loss, stored": lambda n: _loss(n.stored, "test"),
        "test loss, measured": lambda n: _loss(n.measured, "test"),
        "test error, stored, %": lambda n: _error(n.stored),
        "test error, measured, %": lambda n: _error(n.measured),
    }
    note = (
        "Stored: with the BatchNorm statistics saved with the network. Measured: with statistics"
        " that are determined in the same way for all networks and all points between them."
    )
    items = _with_styles(found.networks, styles)
    return tabulate("The networks", "network", columns, items, note)


def paths(found: Landscape, styles: Styles, paper: Setting | None) -> Table | None:
    """Length and barriers of every line and curve, with the paper's for the same network."""
    columns: Columns[PathRecord] = {
        "length / distance": _stretch,
        "train loss at the ends": lambda p: _ends(p.loss.get("train")),
        "largest train loss": lambda p: _largest(p.loss.get("train")),
        "barrier of train loss": lambda p: _barrier(p, "loss", "train"),
        "barrier, augmented": lambda p: _barrier(p, "loss", "augmented"),
        "largest test loss": lambda p: _largest(p.loss.get("test")),
        "barrier of test loss": lambda p: _barrier(p, "loss", "test"),
        "test error at the ends, %": lambda p: _ends(p.error.get("test"), 100),
        "largest test error, %": lambda p: _largest(p.error.get("test"), 100),
        "barrier of test error, points": lambda p: _barrier(p, "error", "test"),
    }
    items = [
        (f"{styles[name].label}, {kind}", styles[name].colour, path)
        for name, ways in found.curve.items()
        for kind, path in (("line", ways.line), ("curve", ways.bezier))
        if path is not None and name in styles
    ]
    if not items:
        return None
    published = _published_rows(paper)
    note = "Ends: the network's, then D's. Largest: on the path, including its ends." + (
        " The paper measured the training loss on augmented images." if published else ""
    )
    table = tabulate("Lines and curves to D", "from", columns, items, note)
    more = (_published_path(row, table.columns) for row in published)
    return replace(table, rows=(*table.rows, *more))


def one_shot(found: Landscape, styles: Styles) -> Table | None:
    """D pruned without training, by all methods at all sparsities."""
    pruned = found.directional.rows if found.directional else ()
    if not pruned:
        return None
    columns: Columns[Pruned] = {
        "zeros, %": lambda r: _cell(r.sparsity, 100),
        "train loss": lambda r: brief(r.train.loss) if r.train else MISSING,
        "test error, %": lambda r: _known(r.test.error if r.test else None, 100),
        "with new BatchNorm, %": lambda r: _error(r.refreshed),
        "zeros shared with magnitude, %": lambda r: _known(r.overlap, 100),
        "lost by clipping, %": lambda r: _known(r.clipped, 100),
        "in the sharp directions, %": lambda r: _known(r.off_flat, 100),
    }
    items = []
    for row in pruned:
        style = style_of_method(row.method, styles)
        rank = f", k = {row.k}" if row.k is not None else ""
        items.append((f"{style.label}{rank}", style.colour, row))
    note = (
        "No training after pruning. Lost by clipping: the share of |λ P₀ sign(w)| that is lost"
        " because weights stop at zero. In the sharp directions: the share of |w − D| in them."
    )
    return tabulate("D pruned in one shot", "method", columns, items, note)


def published(settings: Sequence[Setting]) -> Table:
    """The paper's projection ratios and barriers per network."""
    titles = (
        *("first ratio, k = 10", "last ratio", "times chance"),
        *("train loss at the ends", "largest train loss", "largest test error, %"),
    )
    rows = []
    for setting in settings:
        where = f"{setting.model}, {setting.data}"
        for series in setting.ratios if setting.dimension else ():
            chance = (10 / (setting.dimension or 1)) ** 0.5
            first, last = series.ratios[0], series.ratios[-1]
            cells = {titles[0]: brief(first), titles[1]: brief(last)}
            cells[titles[2]] = f"{last / chance:.1f}"
            rows.append((f"{where}, μ = {series.mu:g}", cells))
        rows += [(f"{where}, {label}", cells) for label, cells in _published_rows(setting)]
    note = (
        "At full width. The ratios are those of the authors' data; Figure 6 of the paper shows"
        " them divided by √10. Training loss on augmented images."
    )
    made = tuple(_published_path(row, titles) for row in rows)
    return Table("Published with the paper", "network", titles, made, note)


def _published_rows(setting: Setting | None) -> list[tuple[str, dict[str, str]]]:
    """Label and cells by title of every published path."""
    return [
        (
            f"paper, μ = {path.mu:g}, {path.kind}",
            {
                "train loss at the ends": f"{brief(path.train_loss[0])} / "
                f"{brief(path.train_loss[2])}",
                "largest train loss": brief(path.train_loss[1]),
                "test error at the ends, %": f"{_cell(path.test_error[0], 100)} / "
                f"{_cell(path.test_error[2], 100)}",
                "largest test error, %": _cell(path.test_error[1], 100),
            },
        )
        for path in (setting.paths if setting else ())
    ]


def _published_path(row: tuple[str, dict[str, str]], titles: Sequence[str]) -> TableRow:
    label, cells = row
    return TableRow(label, PAPER.colour, tuple(cells.get(title, MISSING) for title in titles))


def _with_styles(
    found: Sequence[NetworkRecord], styles: Styles
) -> list[tuple[str, str, NetworkRecord]]:
    return [(styles[n.name].label, styles[n.name].colour, n) for n in found]


def _stretch(path: PathRecord) -> str:
    is_known = path.length is not None and path.distance
    return f"{path.length / path.distance:.3f}" if is_known else MISSING  # type: ignore[operator]


def _barrier(path: PathRecord | None, quantity: str, data: str) -> str:
    profiles = (path.loss if quantity == "loss" else path.error) if path else {}
    scale = 100 if quantity == "error" else 1
    return _cell(barrier(path, quantity, data), scale) if data in profiles else MISSING


def _ends(profile: ProfileRecord | None, scale: float = 1) -> str:
    if profile is None:
        return MISSING
    return f"{_cell(profile.values[0], scale)} / {_cell(profile.values[-1], scale)}"


def _largest(profile: ProfileRecord | None, scale: float = 1) -> str:
    if profile is None:
        return MISSING
    place = f" (t = {profile.largest.t:.2f})" if profile.largest.t is not None else ""
    return f"{_cell(profile.largest.value, scale)}{place}"


def _cell(value: Number, scale: float = 1) -> str:
    return brief(None if value is None else scale * value)


def _known(value: Number, scale: float = 1) -> str:
    return MISSING if value is None else brief(scale * value)


def _loss(figures: Mapping[str, MeasuredRecord] | None, data: str) -> str:
    found = (figures or {}).get(data)
    return brief(found.loss) if found else MISSING


def _error(figures: Mapping[str, MeasuredRecord] | None) -> str:
    found = (figures or {}).get("test")
    return _known(found.error, 100) if found else MISSING
