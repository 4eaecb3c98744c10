"""The report: one self-contained HTML page, made only from the files of run folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dirprune.report.landscape.page import write_landscape_report
from dirprune.report.runs.arms import Arm, arms, task
from dirprune.report.runs.panels import panels
from dirprune.report.runs.read import Results, Run, read_results
from dirprune.report.runs.results import cards, full_table, layer_table, summary_table
from dirprune.report.runs.verdict import lead
from dirprune.report.shared.page import LegendKey, Panel, page, pairs, write_page

OUTLINES = {
    "circle-open": "M15 1a4 4 0 1 0 .01 0z",
    "diamond-open": "M15 .5 19.5 5 15 9.5 10.5 5z",
}


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of runs, a comparison or a landscape as one file that works offline.

    Args:
        folders: Run folders, comparison folders, folders that contain some of these, or a single
            landscape folder.
        out: The page to write; it is replaced only once the new page is complete on disk.

    Returns:
        ``out``.

    Raises:
        FileNotFoundError: If a folder or its config.json does not exist.
        ValueError: If a file was not written by dirprune, or no folder is given.

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
    """Return the page as HTML, in which all text from files is escaped."""
    groups = arms(results.runs)
    shown = panels(groups)
    shared = _shared([run.config for run in results.runs])
    recipe = next((run.recipe for run in results.runs if run.recipe), None)
    details = {
        "Settings that all runs share" if len(results.runs) > 1 else "Settings": pairs(shared),
        "Recipe": pairs(recipe or {}),
        "Learning-rate grid": pairs(results.lr_grid or {}),
        **{f"{run.name} ({run.status})": _details(run, shared) for run in results.runs},
    }
    layers = [layer_table(arm) for arm in groups]
    return page(
        shown,
        kind="report",
        title=_title(groups),
        lead=lead(groups),
        cards=cards(groups),
        tables=[summary_table(groups)],
        keys=[*map(LegendKey.of, groups), *_published_keys(shown)],
        folded=[full_table(groups), *filter(None, layers)],
        details=details,
    )


def _title(groups: Sequence[Arm]) -> str:
    tasks = list(dict.fromkeys(task(arm.config) for arm in groups))
    number = sum(len(arm.runs) for arm in groups)
    what = groups[0].label if len(groups) == 1 else f"{number} runs"
    return f"{what}: {tasks[0] if len(tasks) == 1 else f'{len(tasks)} tasks'}"


def _published_keys(panels: Sequence[Panel]) -> list[LegendKey]:
    traces = [trace for panel in panels for trace in panel.figure.data]
    return [
        LegendKey(
            group, Markup(trace.name).unescape(), trace.marker.color, OUTLINES[trace.marker.symbol]
        )
        for group, trace in {trace.legendgroup: trace for trace in traces}.items()
        if group.startswith("paper-")
    ]


def _details(run: Run, shared: Mapping[str, Any]) -> list[tuple[str, str]]:
    own = {key: value for key, value in run.config.items() if key not in shared}
    best = run.summary.best if run.summary else None
    seconds = run.final("seconds_per_epoch")
    return pairs({**own, "best": best, "seconds_per_epoch": seconds, **run.environment})


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that are equal in all runs."""
    return {
        key: value
        for key, value in configs[0].items()
        if all(key in config and config[key] == value for config in configs)
    }
