"""How the networks of a landscape are named and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from dirprune.report.landscape.read import Network

DENSE, SPARSE = "#767676", "#D55E00"  # as SGD and gRDA in reports of runs
RUNS = ("#009E73", "#E69F00", "#9C8F00")
CONTROLS = {
    "magnitude": ("magnitude pruning", "#0072B2", "square"),
    "soft_threshold": ("soft threshold", "#CC79A7", "cross"),
    "random": ("random direction", "#56B4E9", "x"),
}
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Mark:
    """How one thing is drawn in every figure."""

    key: str
    label: str
    colour: str
    dash: str
    symbol: str


PATHS = Mark("path", "curve (line dotted)", "#7B4FA3", "solid", "circle")
PRUNED = Mark("pruned", "directional pruning", "#00808A", "dashdot", "circle")
CHANCE = Mark("chance", "chance", "#767676", "dot", "circle")
OBD = Mark("obd", "OBD (Hessian's diagonal)", "#9C8F00", "longdash", "triangle-up")
PAPER = Mark("paper", "paper", "#8C6D31", "dot", "circle-open")


def marks(networks: Sequence[Network]) -> dict[str, Mark]:
    """A mark for every network.

    Args:
        networks: As in the file: the dense one, the sparse one, runs, controls.

    Returns:
        By name. Colours tell networks apart, dashes too where runs are many.
    """
    found: dict[str, Mark] = {}
    runs = 0
    for i, network in enumerate(networks):
        name, key = network.name, f"network-{i}"
        if i < 2:
            colour, symbol = ((DENSE, "circle"), (SPARSE, "diamond"))[i]
            found[name] = Mark(key, name, colour, "solid", symbol)
        elif network.role == "control":
            label, colour, symbol = CONTROLS.get(name, (name, "#56B4E9", "x"))
            found[name] = Mark(key, label, colour, "dash", symbol)
        else:
            dash = DASHES[runs // len(RUNS) % len(DASHES)]
            found[name] = Mark(key, name, RUNS[runs % len(RUNS)], dash, "circle")
            runs += 1
    return found
