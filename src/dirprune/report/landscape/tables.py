"""The tables of the page: a row a network, cells that say when a figure is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dirprune.report.landscape.pruning import look
from dirprune.report.landscape.published import Setting
from dirprune.report.landscape.read import Along, Landscape, Measured, Network, Profile
from dirprune.report.landscape.styles import Mark
from dirprune.report.landscape.words import NOT_FINITE, band, brief, error_of, threshold
from dirprune.report.runs.read import Number

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line; ``cells`` stand below the table's columns."""

    label: str
    colour: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """With its heading, the title of its first column, and what its columns mean."""

    title: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


def answers(found: Landscape, marks: Mapping[str, Mark]) -> Table:
    """How near each network is to D's valley, and how far it avoids D's sharp directions."""
    t = threshold(found)
    chance = found.hessian.chance[-1] if found.hessian and found.hessian.chance else None
    rows = tuple(_answer(found, marks, n, t, chance) for n in found.networks[1:])
    k = len(found.hessian.chance) if found.hessian and found.hessian.chance else 0
    columns = (
        "zeros, %",
        "distance to D",
        "test error, %",
        "line: barrier of train loss",
        "curve: barrier of train loss",
        "curve: barrier of test error, points",
        f"in the {k or 'k'} sharpest, share",
        "times chance",
        "mean curvature",
        f"energy above {brief(t)}, %" if t else "energy above t, %",
    )
    kept = [
        i for i in range(len(columns)) if any(row.cells[i] != MISSING for row in rows) or i < 3
    ]
    note = (
        "D is the dense reference. Barrier: how far the values on the way to D rise above a"
        " straight line between those of its ends. The four columns on the right are of the"
        " direction w − D and the Hessian at D: |P(w − D)| / |w − D| for the projection P on the"
        " sharpest directions; the same over √(k/d), which a random direction has;"
        " (w − D)ᵀH(w − D) / |w − D|²; and rigorous bounds for the share of |w − D|² in"
        " eigenvalues above a hundredth of the largest."
    )
    return Table(
        "Valley and sharp directions",
        "network",
        tuple(columns[i] for i in kept),
        tuple(Row(r.label, r.colour, tuple(r.cells[i] for i in kept)) for r in rows),
        note if len(kept) > 6 else note.partition(" The four")[0],
    )


def networks(found: Landscape, marks: Mapping[str, Mark]) -> Table:
    """What every network is, and how it does."""
    rows = tuple(
        Row(
            marks[n.name].label,
            marks[n.name].colour,
            (
                {"dense": "D", "sparse": "G"}.get(n.role, n.role),
                n.method or MISSING,
                MISSING if n.seed is None else str(n.seed),
                MISSING if n.batch_seed is None else str(n.batch_seed),
                _cell(n.norm),
                _figure(n.stored, "train"),
                _figure(n.measured, "train"),
                _figure(n.stored, "test"),
                _figure(n.measured, "test"),
                *(_cell(error, 100) for error in _errors(n)),
            ),
        )
        for n in found.networks
    )
    columns = (
        "role",
        "method",
        "seed",
        "batch seed",
        "norm",
        "train loss, stored",
        "measured",
        "test loss, stored",
        "measured",
        "test error, stored, %",
        "measured, %",
    )
    note = (
        "Stored: with the BatchNorm statistics that the network came with; measured: with those"
        " of the policy that all networks and all points between them share."
    )
    return Table("The networks", "network", columns, rows, note)


def paths(found: Landscape, marks: Mapping[str, Mark], paper: Setting | None) -> Table | None:
    """Length and barriers of every line and curve."""
    rows = []
    has_augmented = False
    for name, ways in found.curve.items():
        for kind, path in (("line", ways.line), ("curve", ways.bezier)):
            if path is not None and name in marks:
                has_augmented |= "augmented" in path.loss
                label = f"{marks[name].label}, {kind}"
                rows.append(Row(label, marks[name].colour, _way(path)))
    if not rows:
        return None
    for way in paper.paths if paper else ():
        loss, error = way.train_loss, way.test_error
        cells = [MISSING] * 10
        cells[1:4] = [f"{brief(loss[0])} / {brief(loss[2])}", brief(loss[1]), MISSING]
        cells[7:10] = [_pair(error[0], error[2]), _cell(error[1], 100), MISSING]
        rows.append(Row(f"paper, μ = {way.mu:g}, {way.kind}", "#8C6D31", tuple(cells)))
    columns = (
        "length / distance",
        "train loss at the ends",
        "largest",
        "barrier",
        "augmented: barrier",
        "test loss: largest",
        "barrier",
        "test error at the ends, %",
        "largest, %",
        "barrier, points",
    )
    kept = [i for i in range(len(columns)) if i != 4 or has_augmented]
    note = "Ends: the network's, then D's. Largest: on the way, ends included." + (
        " The paper measured the training loss on augmented images." if paper else ""
    )
    return Table(
        "Lines and curves to D",
        "from",
        tuple(columns[i] for i in kept),
        tuple(Row(r.label, r.colour, tuple(r.cells[i] for i in kept)) for r in rows),
        note,
    )


def one_shot(found: Landscape, marks: Mapping[str, Mark]) -> Table | None:
    """D pruned without training, by every method at every sparsity."""
    table = found.directional.rows if found.directional else ()
    if not table:
        return None
    rows = []
    for row in table:
        mark = look(row.method, marks)
        label = f"{mark.label}{f', k = {row.k}' if row.k is not None else ''}"
        fresh = row.refreshed or {}
        cells = (
            _cell(row.sparsity, 100),
            _loss(row.train),
            _percent(row.test),
            _percent(fresh.get("test")),
            _share(row.overlap),
            _share(row.clipped),
            _share(row.off_flat),
        )
        rows.append(Row(label, mark.colour, cells))
    columns = (
        "zeros, %",
        "train loss",
        "test error, %",
        "with new BatchNorm, %",
        "zeros shared with magnitude, %",
        "lost by clipping, %",
        "in the sharp directions, %",
    )
    note = (
        "Nothing is trained after pruning. Lost by clipping: of |λ P₀ sign(w)|, what"
        " stopping at zero takes away. In the sharp directions: how much of |w − D| that"
        " leaves there."
    )
    return Table("D pruned in one shot", "method", columns, tuple(rows), note)


def published(settings: Sequence[Setting]) -> Table:
    """The paper's projection ratios and barriers, network by network."""
    rows = []
    for setting in settings:
        where = f"{setting.model}, {setting.data}"
        for series in setting.ratios:
            chance = (10 / setting.dimension) ** 0.5
            last = series.ratios[-1]
            cells = [brief(series.ratios[0]), brief(last), f"{last / chance:.1f}"]
            rows.append(_paper_row(f"{where}, μ = {series.mu:g}", [*cells, *[MISSING] * 3]))
        for way in setting.paths:
            label = f"{where}, μ = {way.mu:g}, {way.kind}"
            cells = [f"{brief(way.train_loss[0])} / {brief(way.train_loss[2])}"]
            cells += [brief(way.train_loss[1]), _cell(way.test_error[1], 100)]
            rows.append(_paper_row(label, [*[MISSING] * 3, *cells]))
    columns = (
        "first ratio, k = 10",
        "last ratio",
        "times chance",
        "train loss at the ends",
        "largest",
        "largest test error, %",
    )
    note = (
        "At full width. The ratios are those of the authors' data; Figure 6 of the paper shows"
        " them divided by √10. Training loss on augmented images."
    )
    return Table("Published with the paper", "network", columns, tuple(rows), note)


def _answer(
    found: Landscape, marks: Mapping[str, Mark], network: Network, t: Number, chance: Number
) -> Row:
    name = network.name
    ways = found.curve.get(name)
    line, curve = (ways.line, ways.bezier) if ways else (None, None)
    seen = found.hessian.of.get(name) if found.hessian else None
    share = seen.ratios[-1] if seen and seen.ratios else None
    bounds = band(found, name, t) if t else None
    cells = (
        _cell(network.zeros, 100),
        _cell(network.distance),
        _cell(error_of(network), 100),
        _barrier(line, "loss"),
        _barrier(curve, "loss"),
        _barrier(curve, "error", "test"),
        _cell(share) if seen and seen.ratios else MISSING,
        f"{share / chance:.1f}" if share is not None and chance else MISSING,
        _cell(seen.rayleigh) if seen else MISSING,
        f"{brief(100 * bounds[0])} to {brief(100 * bounds[1])}" if bounds else MISSING,
    )
    return Row(marks[name].label, marks[name].colour, cells)


def _way(path: Along) -> tuple[str, ...]:
    times = path.length / path.distance if path.length and path.distance else None
    train, test = path.loss.get("train"), path.loss.get("test")
    error = path.error.get("test")
    return (
        f"{times:.3f}" if times else MISSING,
        f"{brief(train.values[0])} / {brief(train.values[-1])}" if train else MISSING,
        _largest(train),
        _barrier(path, "loss"),
        _barrier(path, "loss", "augmented"),
        _largest(test),
        _barrier(path, "loss", "test"),
        _pair(error.values[0], error.values[-1]) if error else MISSING,
        _largest(error, 100),
        _barrier(path, "error", "test"),
    )


def _barrier(path: Along | None, quantity: str, data: str = "train") -> str:
    profiles = (path.loss if quantity == "loss" else path.error) if path else {}
    return _cell(profiles[data].barrier, _scale(quantity)) if data in profiles else MISSING


def _largest(profile: Profile | None, scale: float = 1) -> str:
    if profile is None:
        return MISSING
    place = f" (t = {profile.largest.t:.2f})" if profile.largest.t is not None else ""
    return f"{_cell(profile.largest.value, scale)}{place}"


def _pair(first: Number, last: Number) -> str:
    return f"{_cell(first, 100)} / {_cell(last, 100)}"


def _scale(quantity: str) -> float:
    return 100 if quantity == "error" else 1


def _cell(value: Number, scale: float = 1) -> str:
    return NOT_FINITE if value is None else brief(scale * value)


def _share(value: Number) -> str:
    return MISSING if value is None else brief(100 * value)


def _loss(figures: Measured | None) -> str:
    return _cell(figures.loss) if figures else MISSING


def _percent(figures: Measured | None) -> str:
    return _share(figures.error) if figures else MISSING


def _figure(figures: Mapping[str, Measured] | None, data: str) -> str:
    return _loss((figures or {}).get(data))


def _errors(network: Network) -> tuple[Number, Number]:
    stored, measured = ((f or {}).get("test") for f in (network.stored, network.measured))
    return (stored.error if stored else None, measured.error if measured else None)


def _paper_row(label: str, cells: Sequence[str]) -> Row:
    return Row(label, "#8C6D31", tuple(cells))
