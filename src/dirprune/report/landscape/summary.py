"""The summary of a landscape's page: its state, the verdict, the two networks and four cards."""

from dirprune.report.landscape.measures import (
    curve_barrier,
    error_of,
    line_barrier,
    times_chance,
)
from dirprune.report.landscape.read import SECTIONS, Landscape
from dirprune.report.shared.numbers import brief, percent, signed
from dirprune.report.shared.page import Card

NEGLIGIBLE = 0.01
"""A difference of barriers, in nats, that is not called a difference."""


def lead(found: Landscape) -> list[str]:
    """Return the state of an unfinished landscape, the verdict, and zeros and errors."""
    if not found.networks:
        return ["Still running: nothing is measured yet."]
    sparse, dense = found.sparse, found.dense
    text = (
        f"{sparse.name} (G): {percent(sparse.zeros)} zeros, {percent(error_of(sparse))} test"
        f" error; {dense.name} (D): {percent(error_of(dense))} test error."
    )
    return [*_progress(found), *_verdict(found), text]


def _verdict(found: Landscape) -> list[str]:
    """Compare the straight line from G to D with that from another run of D's method."""
    ours = line_barrier(found, found.sparse.name)
    if ours is None:
        return []
    rise = (
        f"Same valley? On the straight line from G to D the training loss rises by {brief(ours)}"
    )
    name, theirs = _second_run(found)
    if theirs is None:
        second = found.dense.method or "dense"
        return [f"{rise}. A second {second} run from the same start would show how much is usual."]
    answer = "as" if ours <= theirs + max(NEGLIGIBLE, 0.1 * theirs) else "not as"
    return [
        f"{rise}, from {name} to D by {brief(theirs)}: G is {answer} well connected to D as a"
        " second run of D's method."
    ]


def _second_run(found: Landscape) -> tuple[str, float | None]:
    """The other run of D's method with the largest barrier, of those from D's start if any."""
    dense, barriers = found.dense, {}
    runs = [n for n in found.networks[2:] if n.role == "run" and n.method == dense.method]
    runs = [n for n in runs if n.seed == dense.seed] or runs
    for network in runs:
        if (barrier := line_barrier(found, network.name)) is not None:
            barriers[network.name] = barrier
    name = max(barriers, key=lambda n: barriers[n], default="")
    return name, barriers.get(name)


def cards(found: Landscape) -> list[Card]:
    """Return zeros, error, barriers and sharp directions of the sparse network."""
    if not found.networks:
        return []
    sparse, dense = found.sparse, found.dense
    ours, theirs = error_of(sparse), error_of(dense)
    cards = [Card("Zeros", percent(sparse.zeros), f"{sparse.name} (G), of all parameters")]
    if ours is not None and theirs is not None:
        points = f"{signed(100 * (ours - theirs))} points"
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


def _progress(found: Landscape) -> list[str]:
    if found.status != "running":
        return []
    requested = str(found.config.get("what", "")).split(",")
    parts = [name for name in SECTIONS if name in requested] or list(SECTIONS)
    present = [name for name in parts if getattr(found, name)]
    missing = [name for name in parts if name not in present]
    text = f"Still running. Measured: {', '.join(present) or 'nothing'}"
    return [f"{text}; missing: {', '.join(missing)}." if missing else f"{text}."]
