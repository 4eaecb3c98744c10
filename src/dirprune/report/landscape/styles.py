"""Names and styles of the networks of a landscape."""

from collections.abc import Mapping, Sequence

from dirprune.report.landscape.read import NetworkRecord
from dirprune.report.shared.styles import (
    AMBER,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PINK,
    PURPLE,
    SKY,
    TEAL,
    Style,
)

RUNS = (GREEN, AMBER, OLIVE)
CONTROLS = {
    "magnitude": ("magnitude pruning", BLUE, "square"),
    "soft_threshold": ("soft threshold", PINK, "cross"),
    "random": ("random direction", SKY, "x"),
}
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")
PATHS = Style("path", "curve (line dotted)", PURPLE, "solid", "circle")
PRUNED = Style("pruned", "directional pruning", TEAL, "dashdot", "circle")
CHANCE = Style("chance", "chance", GREY, "dot", "circle")
OBD = Style("obd", "OBD (Hessian's diagonal)", OLIVE, "longdash", "triangle-up")
PAPER = Style("paper", "paper", BROWN, "dot", "circle-open")


def styles_of(networks: Sequence[NetworkRecord]) -> dict[str, Style]:
    """Return the style of every network."""
    found: dict[str, Style] = {}
    runs = 0
    for i, network in enumerate(networks):
        name, key = network.name, f"network-{i}"
        if i < 2:
            colour, symbol = ((GREY, "circle"), (ORANGE, "diamond"))[i]
            found[name] = Style(key, name, colour, "solid", symbol)
        elif network.role == "control":
            label, colour, symbol = CONTROLS.get(name, (name, SKY, "x"))
            found[name] = Style(key, label, colour, "dash", symbol)
        else:
            dash = DASHES[runs // len(RUNS) % len(DASHES)]
            found[name] = Style(key, name, RUNS[runs % len(RUNS)], dash, "circle")
            runs += 1
    return found


def style_of_method(method: str, styles: Mapping[str, Style]) -> Style:
    """Return the style of a pruning method; controls of the same name have the same style."""
    if method in styles:
        return styles[method]
    if method in CONTROLS:
        label, colour, symbol = CONTROLS[method]
        return Style(method, label, colour, "dash", symbol)
    return PRUNED if method == "directional" else OBD
