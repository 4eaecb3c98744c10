"""The summary of a landscape's page: is the sparse network in the dense network's valley?"""

from collections.abc import Mapping

from dirprune.report.landscape.measures import (
    curve_barrier,
    error_of,
    line_barrier,
    times_chance,
)
from dirprune.report.landscape.read import SECTIONS, Landscape
from dirprune.report.shared.numbers import brief, percent
from dirprune.report.shared.page import Card
from dirprune.report.shared.styles import Style


def verdict(found: Landscape, styles: Mapping[str, Style]) -> list[str]:
    """Summarise the measurements so far."""
    if not found.networks:
        return ["Still running: nothing is measured yet."]
    sparse, dense = found.sparse, found.dense
    text = (
        f"{sparse.name} (G): {percent(sparse.zeros)} zeros, {percent(error_of(sparse))} test"
        f" error; {dense.name} (D): {percent(error_of(dense))} test error."
    )
    return [*_progress(found), *_valley(found, styles), text]


def cards(found: Landscape) -> list[Card]:
    """Return zeros, error, barriers and sharp directions of the sparse network."""
    if not found.networks:
        return []
    sparse, dense = found.sparse, found.dense
    ours, theirs = error_of(sparse), error_of(dense)
    cards = [Card("Zeros", percent(sparse.zeros), f"{sparse.name} (G), of all parameters")]
    if ours is not None and theirs is not None:
        points = f"{100 * (ours - theirs):+.2f} points".replace("-", "−").replace("+0.00", "±0.00")
        cards.append(Card("Test error against D", points, f"D: {percent(theirs)}"))
    line, curve = (value(found, sparse.name) for value in (line_barrier, curve_barrier))
    if line is not None or curve is not None:
        note = f"on the straight line: {brief(line)}" if curve is not None else "straight line"
        value = brief(line if curve is None else curve)
        cards.append(Card("Loss barrier between G and D", value, note))
    if (share := times_chance(found, sparse.name)) is not None:
        note = "share of G − D in sharp directions, 1 is a random direction"
        cards.append(Card("Sharp directions", f"{brief(share)}× chance", note))
    return cards


def _valley(found: Landscape, styles: Mapping[str, Style]) -> list[str]:
    """Give the barriers between G and D, and rank the straight line among other runs'."""
    names = f"{found.sparse.name} and {found.dense.name}"
    line, curve = (value(found, found.sparse.name) for value in (line_barrier, curve_barrier))
    rises = [
        f"by {brief(barrier)} on {kind}"
        for barrier, kind in ((line, "the straight line"), (curve, "a fitted curve"))
        if barrier is not None
    ]
    if not rises:
        return []
    text = f"Same valley? Between {names} the training loss rises {' and '.join(rises)}"
    runs = [
        (barrier, network)
        for network in found.others
        if network.role != "control" and (barrier := line_barrier(found, network.name)) is not None
    ]
    if line is None or not runs:
        return [f"{text}."]
    theirs, other = min(runs, key=lambda pair: pair[0])
    rank = "at least as well" if line <= theirs else "less well"
    return [
        f"{text}: on the straight line {rank} connected as {styles[other.name].label}, another"
        f" run ({brief(theirs)})."
    ]


def _progress(found: Landscape) -> list[str]:
    if found.status != "running":
        return []
    requested = str(found.config.get("what", "")).split(",")
    parts = [name for name in SECTIONS if name in requested] or list(SECTIONS)
    present = [name for name in parts if getattr(found, name)]
    missing = [name for name in parts if name not in present]
    text = f"Still running. So far there is {', '.join(present) or 'nothing'}"
    return [f"{text}; missing: {', '.join(missing)}." if missing else f"{text}."]
