"""The report: one self-contained HTML page, made from the files of run folders alone."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily
from plotly.offline.offline import get_plotlyjs

from dirprune.report.arms import Arm, arms, task
from dirprune.report.captions import panels
from dirprune.report.published import citation
from dirprune.report.read import Layer, Results, Run, read_results
from dirprune.report.words import COLUMNS, headline, rows, rows_of_runs

CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


LINE = "M1 5H29"
OUTLINES = {
    "circle-open": "M15 1a4 4 0 1 0 .01 0z",
    "diamond-open": "M15 .5 19.5 5 15 9.5 10.5 5z",
}


@dataclass(frozen=True)
class Key:
    """An entry of the page's one key to all figures, for the traces of a legend group.

    ``path`` is SVG's: a line in the arm's dash pattern, or the outline of a published point.
    """

    group: str
    label: str
    colour: str
    path: str
    dash: str = ""


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of runs, or of a comparison, as one file that needs no network.

    Args:
        folders: Run folders, comparison folders, or both.
        out: The page to write; replaced only once the new page is complete on disk.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: If a folder, or the file that makes it a run, is not there.
        ValueError: If a file is not what ``dirprune train`` writes, or no folder is given.

    Example:
        >>> write_report([Path("nowhere")], Path("report.html"))
        Traceback (most recent call last):
        FileNotFoundError: no folder nowhere: give one that dirprune train wrote
    """
    _write_atomically(out, render(read_results(folders)))
    return out


def render(results: Results) -> str:
    """The page as text.

    Args:
        results: As :func:`~dirprune.report.read.read_results` returns them.

    Returns:
        HTML in which everything that came from a file is escaped.
    """
    groups = arms(results.runs)
    shown = panels(groups)
    traces = [trace for panel in shown for trace in panel.figure.data]
    lines = [Key(arm.key, arm.label, arm.colour, LINE, _stroke(arm.dash)) for arm in groups]
    points = {
        trace.legendgroup: Key(
            trace.legendgroup,
            Markup(trace.name).unescape(),
            trace.marker.color,
            OUTLINES[trace.marker.symbol],
        )
        for trace in traces
        if trace.legendgroup.startswith("paper-")
    }
    shared = _shared([run.config for run in results.runs])
    page: str = _template().render(
        title=_title(groups),
        headline=headline(groups),
        columns=COLUMNS,
        rows=rows(groups),
        run_rows=rows_of_runs(groups) if len(results.runs) > len(groups) else [],
        has_points=any(row.points for row in rows(groups)),
        spread=any(len(arm.counted) > 1 for arm in groups),
        total=sorted({run.total for run in results.runs if run.total}),
        keys=[*lines, *points.values()],
        panels=[(panel, _div(f"figure-{panel.name}", panel.figure)) for panel in shown],
        settings=_pairs(shared),
        runs=[_details(run, shared) for run in results.runs],
        lr_grid=_pairs(results.lr_grid or {}),
        citation=citation(),
        plotly=Markup(get_plotlyjs()),  # type: ignore[no-untyped-call]
    )
    return page


def _title(groups: Sequence[Arm]) -> str:
    tasks = list(dict.fromkeys(task(arm.config) for arm in groups))
    number = sum(len(arm.runs) for arm in groups)
    what = groups[0].label if len(groups) == 1 else f"{number} runs"
    return f"{what}: {tasks[0] if len(tasks) == 1 else f'{len(tasks)} tasks'}"


def _div(name: str, figure: Figure) -> Markup:
    """Plotly's element and script; its JSON has <, > and / escaped, so nothing breaks out."""
    drawn = figure.to_html(  # type: ignore[no-untyped-call]
        full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG
    )
    return Markup(drawn)


def _details(run: Run, shared: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in run.config.items() if key not in shared}
    layers: tuple[Layer, ...] = (run.summary.layers or ()) if run.summary else ()
    best = run.summary.best if run.summary else None
    return {
        "name": run.name,
        "status": run.status,
        "pairs": _pairs({**own, "best": best, "recipe": run.recipe, **run.environment}),
        "layers": layers,
    }


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings in which all runs agree."""
    return {
        key: value
        for key, value in configs[0].items()
        if all(key in config and config[key] == value for config in configs)
    }


def _pairs(record: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """A nested object as dotted names and texts, nulls left out."""
    pairs = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            pairs += _pairs(value, f"{above}{key}.")
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            pairs.append((f"{above}{key}", " ".join(value)))
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            pairs.append((f"{above}{key}", text))
    return pairs


def _stroke(dash: str) -> str:
    """A plotly dash as an SVG dash pattern of the same look."""
    patterns = {"dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "10 4"}
    return patterns.get(dash, "" if dash == "solid" else "10 3 2 3")


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("dirprune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _write_atomically(path: Path, text: str) -> None:
    """Through a temporary file in the same folder, so that no reader sees half a page."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for the report: make it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
