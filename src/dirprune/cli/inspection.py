"""The commands for finished runs: landscape and report.

A command imports what it needs when it runs, so that help and usage errors load no torch.
"""

from pathlib import Path
from typing import Annotated

import tyro

from dirprune.cli.options import Out
from dirprune.cli.printing import is_first
from dirprune.survey.config import SurveyConfig

Runs = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]


def landscape(
    runs: Runs,
    out: Out,
    measurement: SurveyConfig = SurveyConfig(),  # noqa: B008 (frozen)
) -> None:
    """Measure the loss landscape around finished runs: do they lie in one valley?

    To continue after an interruption, give the same command again. Controls are derived from the
    first run: magnitude pruning, soft-thresholding, a random direction.

    Args:
        runs: Run folders, or .safetensors files with --model: first the dense reference (SGD),
            then the sparse one (gRDA), then others to compare with.
        out: Folder of landscape.json.
        measurement: What is measured, and how finely.
    """
    if is_first():
        print("loading torch and the networks", flush=True)  # which may take ten seconds
    from dirprune.report.runs.page import write_report
    from dirprune.survey.survey import survey

    survey(runs, measurement, out)
    if is_first():
        print(f"report: {write_report([out], out / 'report.html')}")


def report(
    runs: Runs,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """Draw the report of runs, of a comparison, or of a landscape.

    Args:
        runs: Run folders, a folder that contains runs, or a comparison or a landscape.
        out: The page; report.html in the first folder by default.
    """
    from dirprune.report.runs.page import write_report

    if not runs:
        raise ValueError("report needs at least one run folder, got none")
    page = out or runs[0] / "report.html"
    print(f"report: {write_report(runs, page)}")
