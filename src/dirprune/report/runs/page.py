"""The report: one self-contained HTML page, made from the files of run folders alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dirprune.report.landscape.page import write_landscape_report
from dirprune.report.runs.arms import Arm, arms, task
from dirprune.report.runs.captions import panels
from dirprune.report.runs.read import Layer, Results, Run, read_results
from dirprune.report.runs.words import columns, headline, rows, rows_of_runs
from dirprune.report.shared.frame import LINE, Key, page, pairs, stroke, write_page

OUTLINES = {
    "circle-open": "M15 1a4 4 0 1 0 .01 0z",
    "diamond-open": "M15 .5 19.5 5 15 9.5 10.5 5z",
}


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of runs, a comparison or a landscape as one file that needs no network.

    Args:
        folders: Run folders, comparison folders, or both; or a single landscape folder.
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
    landscapes = [folder for folder in folders if (folder / "landscape.json").is_file()]
    if landscapes and len(folders) > 1:
        raise ValueError(f"{landscapes[0]} is a landscape, which has its own page: give it alone")
    if landscapes:
        return write_landscape_report(landscapes[0], out)
    return write_page(out, render(read_results(folders)))


def render(results: Results) -> str:
    """The page as text.

    Args:
        results: As :func:`~dirprune.report.runs.read.read_results` returns them.

    Returns:
        HTML in which everything that came from a file is escaped.
    """
    groups = arms(results.runs)
    shown = panels(groups)
    traces = [trace for panel in shown for trace in panel.figure.data]
    lines = [Key(arm.key, arm.label, arm.colour, LINE, stroke(arm.dash)) for arm in groups]
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
    return page(
        "runs/page.html.jinja",
        shown,
        title=_title(groups),
        headline=headline(groups),
        columns=columns(groups),
        rows=rows(groups),
        run_rows=rows_of_runs(groups) if len(results.runs) > len(groups) else [],
        has_points=any(row.points for row in rows(groups)),
        spread=any(len(arm.counted) > 1 for arm in groups),
        total=sorted({run.total for run in results.runs if run.total}),
        keys=[*lines, *points.values()],
        settings=pairs(shared),
        runs=[_details(run, shared) for run in results.runs],
        lr_grid=pairs(results.lr_grid or {}),
    )


def _title(groups: Sequence[Arm]) -> str:
    tasks = list(dict.fromkeys(task(arm.config) for arm in groups))
    number = sum(len(arm.runs) for arm in groups)
    what = groups[0].label if len(groups) == 1 else f"{number} runs"
    return f"{what}: {tasks[0] if len(tasks) == 1 else f'{len(tasks)} tasks'}"


def _details(run: Run, shared: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in run.config.items() if key not in shared}
    layers: tuple[Layer, ...] = (run.summary.layers or ()) if run.summary else ()
    best = run.summary.best if run.summary else None
    return {
        "name": run.name,
        "status": run.status,
        "pairs": pairs({**own, "best": best, "recipe": run.recipe, **run.environment}),
        "layers": layers,
    }


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings in which all runs agree."""
    return {
        key: value
        for key, value in configs[0].items()
        if all(key in config and config[key] == value for config in configs)
    }
