"""Colours and styles of methods and networks, the same on all pages."""

from dataclasses import dataclass

# The palette of Okabe and Ito (2008), which is safe for colour-blind readers. Grey and dark yellow
# replace its black and yellow, so that every line is visible on white and on dark grey.
GREY, ORANGE, AMBER, PINK = "#767676", "#D55E00", "#E69F00", "#CC79A7"
GREEN, BLUE, SKY, OLIVE = "#009E73", "#0072B2", "#56B4E9", "#9C8F00"
PURPLE, TEAL, BROWN = "#7B4FA3", "#00808A", "#8C6D31"  # not in the palette
METHODS = {
    "sgd": ("SGD", GREY),
    "adamw": ("AdamW", GREY),
    "grda": ("gRDA", ORANGE),
    "adam_grda": ("Adam gRDA", ORANGE),
    "rda": ("RDA", AMBER),
    "prox_sgd": ("Proximal SGD", PINK),
    "gmp": ("Gradual magnitude", GREEN),
    "hard": ("Hard threshold", TEAL),
    "rigl": ("RigL", PURPLE),
    "acdc": ("AC/DC", BROWN),
    "magnitude": ("Magnitude", BLUE),
    "random": ("Random", SKY),
    "variational_dropout": ("Variational dropout", OLIVE),
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")


@dataclass(frozen=True)
class Style:
    """The style of a method or network in all figures; ``key`` is its legend group.

    ``dash`` and ``symbol`` are plotly's names.
    """

    key: str
    label: str
    colour: str
    dash: str
    symbol: str


def family(method: str) -> str:
    """Return the known method that a name starts with, or the name itself.

    Example:
        >>> family("grda_momentum")
        'grda'
    """
    known = [name for name in METHODS if method == name or method.startswith(f"{name}_")]
    return max(known, key=len, default=method)


def colour(method: str) -> str:
    """Return the colour of a method."""
    return METHODS.get(family(method), ("", OLIVE))[1]


def title(method: str) -> str:
    """Return the display name of a method.

    Example:
        >>> title("sgd_momentum")
        'SGD with momentum'
    """
    kind = family(method)
    variant = method.removeprefix(kind).strip("_").replace("_", " ")
    joined = " with momentum" if variant == "momentum" else f", {variant}" if variant else ""
    return METHODS.get(kind, (kind, ""))[0] + joined
