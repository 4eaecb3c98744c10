"""Measures for comparing networks: barriers, shares of sharp directions, curvature."""

import math

from dirprune.report.landscape.read import DirectionSpectrum, Landscape, NetworkRecord, PathRecord
from dirprune.report.landscape.spectra import above
from dirprune.report.shared.numbers import Number


def barrier(path: PathRecord | None, quantity: str = "loss", data: str = "train") -> Number:
    """Largest excess of a quantity on a path over linear interpolation between its ends."""
    profiles = (path.loss if quantity == "loss" else path.error) if path else {}
    return profiles[data].barrier if data in profiles else None


def line_barrier(found: Landscape, name: str) -> Number:
    """Barrier of the training loss on the straight line to D."""
    return barrier(found.curve[name].line if name in found.curve else None)


def curve_barrier(found: Landscape, name: str) -> Number:
    """Barrier of the training loss on the fitted curve to D."""
    return barrier(found.curve[name].bezier if name in found.curve else None)


def sharp_share(found: Landscape, name: str) -> Number:
    """Share of w - D in all known sharp directions."""
    seen = direction_spectrum(found, name)
    return seen.ratios[-1] if seen and seen.ratios else None


def times_chance(found: Landscape, name: str) -> Number:
    """:func:`sharp_share` divided by that of a random direction."""
    share = sharp_share(found, name)
    chance = found.hessian.chance[-1] if found.hessian and found.hessian.chance else None
    return share / chance if share is not None and chance else None


def direction_spectrum(found: Landscape, name: str) -> DirectionSpectrum | None:
    """Energy of the direction w - D in the spectrum."""
    return found.hessian.of.get(name) if found.hessian else None


def energy_threshold(found: Landscape) -> Number:
    """The point of the grid that is closest to a hundredth of the largest eigenvalue."""
    seen = direction_spectrum(found, found.sparse.name) if found.networks else None
    places = [t for t, _, _ in above(seen)] if seen else []
    top = found.hessian.eigenvalues[0] if found.hessian and found.hessian.eigenvalues else None
    if not places or not top or top <= 0:
        return None
    goal = math.log(top / 100)
    return min(places, key=lambda t: abs(math.log(t) - goal))


def energy_bounds(found: Landscape, name: str, t: float) -> tuple[float, float] | None:
    """Lower and upper bound of the share of energy above t."""
    seen = direction_spectrum(found, name)
    places = {place: (low, high) for place, low, high in above(seen)} if seen else {}
    nearest = min(places, key=lambda place: abs(place - t), default=None)
    return None if nearest is None else places[nearest]


def error_of(network: NetworkRecord) -> Number:
    """Test error with the BatchNorm statistics that all networks share, or else with its own."""
    figures = network.measured or network.stored or {}
    return figures["test"].error if "test" in figures else None
