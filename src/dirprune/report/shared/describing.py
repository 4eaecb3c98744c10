"""What is seen in a figure, in words for screen readers."""

from typing import Any

from markupsafe import Markup
from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.shared.numbers import significant

STEPS = "hvh"
"""Shape of the lines of a histogram."""


def described(title: str, figure: Figure) -> str:
    """Return the title, the axes and, for each named trace, what its points show.

    A curve is described by its first and last value, a histogram by its highest bin, and points
    with names by the lowest and the highest of them.
    """
    axes = (_title(figure, "yaxis"), _title(figure, "xaxis"))
    heading = f"{title} ({axes[0]} against {axes[1]})" if all(axes) else title
    is_listed = bool(figure.layout.yaxis.ticktext)  # names on the vertical axis
    seen = [
        f"{Markup(trace.name).unescape()}: {text}"
        for trace in figure.data
        if trace.name and (text := _seen(trace, is_listed))
    ]
    return f"{heading}. {'; '.join(dict.fromkeys(seen))}"


def _title(figure: Figure, kind: str) -> str:
    """The first title among the axes of a kind."""
    # plotly keeps the names in a set, whose order changes between processes
    axes = sorted(name for name in figure.layout if name.startswith(kind))
    titles = (figure.layout[name].title.text for name in axes)
    return Markup(next(filter(None, titles), "")).unescape()


def _seen(trace: Any, is_listed: bool) -> str:
    """Describe the points of a trace."""
    has_names = isinstance(getattr(trace, "text", None), (list, tuple))
    values = getattr(trace, "x" if has_names and is_listed else "y", None)
    known = [] if values is None else [
        (at, value) for at, value in enumerate(values) if isinstance(value, int | float)
    ]  # fmt: skip
    if not known:
        return ""
    if has_names:
        low, high = (end(known, key=lambda pair: pair[1]) for end in (min, max))
        ends = [
            f"{significant(v)} at {Markup(trace.text[at]).unescape()}" for at, v in (low, high)
        ]
        return ends[0] if low == high else " to ".join(ends)
    if getattr(getattr(trace, "line", None), "shape", None) == STEPS:
        at, most = max(known, key=lambda pair: pair[1])
        return f"at most {most:,.0f}, near {significant(trace.x[at])}"
    if len(known) == 1 and isinstance(trace.x[0], str):
        return f"{known[0][1]:,.0f} at {trace.x[0].removeprefix('= ')}"
    first, last = (significant(known[end][1]) for end in (0, -1))
    return first if first == last else f"{first} to {last}"
