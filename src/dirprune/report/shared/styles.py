"""Colours and styles of methods and networks, the same on all pages."""

from dataclasses import dataclass

# The hues of Okabe and Ito (2008) and some more. Lightness and chroma were searched for so that
# each colour has a contrast of 4.5 with the page and colour-blind readers can tell all apart.
GREY, ORANGE, AMBER, PINK = "#6B6B6B", "#C24A00", "#685334", "#A443B8"
GREEN, BLUE, SKY, OLIVE = "#14453A", "#12253F", "#4E62EF", "#282400"
PURPLE, TEAL, BROWN = "#4509A5", "#045C77", "#683100"
NIGHT = {
    GREY: "#A0A0A0", ORANGE: "#FF8736", AMBER: "#C76B1E", PINK: "#B269B1", GREEN: "#96D6A7",
    BLUE: "#7BA1FF", SKY: "#63D4FD", OLIVE: "#EDF69F", PURPLE: "#866CFB", TEAL: "#9DFFFE",
    BROWN: "#F9C909",
}  # fmt: skip
"""The colours on dark pages; no colour has enough contrast with white and with dark grey."""
EDGE, NIGHT_EDGE = "#FFFFFF", "#17191C"
"""The edges of lines and markers on a map, which separate them from its light and dark parts."""
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
