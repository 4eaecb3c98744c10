"""What was found, in words: G held against every control, from the figures alone."""

import math
from collections.abc import Callable, Mapping

from dirprune.report.landscape.read import SECTIONS, Along, Landscape, Network, Seen
from dirprune.report.landscape.spectra import above
from dirprune.report.landscape.styles import Mark
from dirprune.report.runs.read import Number
from dirprune.report.runs.words import percent

NOT_FINITE = "not finite"


def headline(found: Landscape, marks: Mapping[str, Mark]) -> list[str]:
    """What the page answers, a sentence each, as far as it is measured.

    Args:
        found: The landscape.
        marks: By network.

    Returns:
        At least one sentence.
    """
    if not found.networks:
        return ["Still running: nothing is measured yet."]
    sentences = [*_progress(found), _outcome(found)]
    for what, value in (
        ("Curves to D, how far the training loss rises above a straight line", curve_barrier),
        ("Straight lines to D, the same", line_barrier),
    ):
        told = standing(found, marks, value)
        sentences += [f"{what}: {told}."] if told else []
    told = standing(found, marks, ratio)
    if told and found.hessian and found.hessian.chance:
        k, level = len(found.hessian.chance), found.hessian.chance[-1]
        sentences.append(f"Share of w − D in the {k} sharpest directions: {told}; {_odds(level)}.")
    told = standing(found, marks, rayleigh)
    sentences += [f"Mean curvature along w − D: {told}."] if told else []
    return sentences


def standing(
    found: Landscape, marks: Mapping[str, Mark], value: Callable[[Landscape, str], Number]
) -> str:
    """G's figure beside those of all others, or nothing where it is not known.

    Args:
        found: The landscape.
        marks: By network.
        value: A figure of a network, None where there is none.

    Returns:
        Such as "grda 0.002, below 3 of 4 others (0.001 for sgd2 to 0.3 for magnitude)".
    """
    ours = value(found, found.sparse.name)
    if ours is None:
        return ""
    theirs = {n.name: v for n in found.others if (v := value(found, n.name)) is not None}
    text = f"{marks[found.sparse.name].label} {brief(ours)}"
    if not theirs:
        return text
    if len(theirs) == 1:
        ((name, only),) = theirs.items()
        return f"{text}, {marks[name].label} {brief(only)}"
    low, high = (f(theirs, key=lambda name: theirs[name]) for f in (min, max))
    below = sum(ours < v for v in theirs.values())
    return (
        f"{text}, below {below} of {len(theirs)} others"
        f" ({brief(theirs[low])} for {marks[low].label} to"
        f" {brief(theirs[high])} for {marks[high].label})"
    )


def band_standing(found: Landscape, t: float) -> str:
    """Against how many others the bounds of G's energy above t decide."""
    ours = band(found, found.sparse.name, t)
    theirs = [b for n in found.others if (b := band(found, n.name, t)) is not None]
    if ours is None:
        return ""
    text = f"{found.sparse.name} between {brief(ours[0])} and {brief(ours[1])}"
    if not theirs:
        return text
    less = sum(ours[1] < low for low, _ in theirs)
    more = sum(ours[0] > high for _, high in theirs)
    return (
        f"{text}, certainly less than {less} and certainly more than {more}"
        f" of {len(theirs)} others"
    )


def line_barrier(found: Landscape, name: str) -> Number:
    """Of the training loss on the straight line to D."""
    return _barrier(found.curve[name].line if name in found.curve else None)


def curve_barrier(found: Landscape, name: str) -> Number:
    """Of the training loss on the fitted curve to D."""
    return _barrier(found.curve[name].bezier if name in found.curve else None)


def ratio(found: Landscape, name: str) -> Number:
    """How much of w - D lies in all known sharp directions."""
    seen = _seen(found, name)
    return seen.ratios[-1] if seen and seen.ratios else None


def rayleigh(found: Landscape, name: str) -> Number:
    """The mean curvature along w - D."""
    seen = _seen(found, name)
    return seen.rayleigh if seen else None


def threshold(found: Landscape) -> Number:
    """The eigenvalue above which energy is compared: a hundredth of the largest, on the grid."""
    seen = _seen(found, found.sparse.name) if found.networks else None
    places = [t for t, _, _ in above(seen)] if seen else []
    top = found.hessian.eigenvalues[0] if found.hessian and found.hessian.eigenvalues else None
    if not places or not top or top <= 0:
        return None
    goal = math.log(top / 100)
    return min(places, key=lambda t: abs(math.log(t) - goal))


def band(found: Landscape, name: str, t: float) -> tuple[float, float] | None:
    """Bounds of the share of energy above t."""
    seen = _seen(found, name)
    places = {place: (low, high) for place, low, high in above(seen)} if seen else {}
    nearest = min(places, key=lambda place: abs(place - t), default=None)
    return None if nearest is None else places[nearest]


def brief(value: Number) -> str:
    """A number of three digits that count.

    Example:
        >>> brief(0.000012345), brief(1234.5), brief(None)
        ('1.23e−5', '1230', 'not finite')
    """
    if value is None or not math.isfinite(value):
        return NOT_FINITE
    text = f"{value:.3g}"
    if "e" in text and 1e3 <= abs(value) < 1e6:
        text = f"{float(text):.0f}"
    mantissa, e, power = text.partition("e")
    return f"{mantissa}{e}{int(power)}".replace("-", "−") if e else text.replace("-", "−")


def error_of(network: Network, data: str = "test") -> Number:
    """As all networks are measured, by one policy for BatchNorm's statistics."""
    figures = network.measured or network.stored or {}
    return figures[data].error if data in figures else None


def _progress(found: Landscape) -> list[str]:
    if found.status != "running":
        return []
    asked = str(found.config.get("what", "")).split(",")
    parts = [name for name in SECTIONS if name in asked] or list(SECTIONS)
    here = [name for name in parts if getattr(found, name)]
    missing = [name for name in parts if name not in here]
    text = f"Still running. So far there is {', '.join(here) or 'nothing'}"
    return [f"{text}; missing: {', '.join(missing)}." if missing else f"{text}."]


def _outcome(found: Landscape) -> str:
    dense, sparse = found.dense, found.sparse
    return (
        f"{sparse.name} (G): {percent(sparse.zeros)} zeros, {percent(error_of(sparse))} test"
        f" error; {dense.name} (D, the reference): {percent(dense.zeros)} zeros,"
        f" {percent(error_of(dense))} test error."
    )


def _odds(level: Number) -> str:
    return f"chance gives {brief(level)}"


def _seen(found: Landscape, name: str) -> Seen | None:
    return found.hessian.of.get(name) if found.hessian else None


def _barrier(path: Along | None) -> Number:
    return path.loss["train"].barrier if path and "train" in path.loss else None
