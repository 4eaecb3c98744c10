"""The commands that train: train, compare, tune and demo.

A command imports what it needs when it runs, so that help and usage errors load no torch.
"""

import os
from dataclasses import replace
from pathlib import Path

from dirprune.cli.options import Out, given_options
from dirprune.cli.printing import is_first, print_exports, print_runs, print_trials
from dirprune.cli.tables import print_text
from dirprune.study.parts import Part
from dirprune.train.config import TrainConfig
from dirprune.train.names import COMPARED
from dirprune.train.recipes import published

DEMO = TrainConfig()
"""The config of the demo, for each method."""


def share_cpus() -> None:
    """Let idle threads sleep instead of spinning; it only works before torch is loaded.

    Two runs of a tiny network on two CPUs otherwise take about a hundred times as long each.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def train(
    config: TrainConfig,
    out: Out,
    resume: bool = False,
    overwrite: bool = False,
    track: str | None = None,
) -> None:
    """Train one network and write its run folder, with a report.

    With --recipe NAME, the options default to those of a row of the paper or of its scaled-down
    twin, instead of the digits demo.

    Args:
        config: What to train, and how.
        out: Folder of the run.
        resume: Continue the interrupted run in the folder. The result is bit-identical to an
            uninterrupted run.
        overwrite: Replace the run in the folder, as soon as the new run has saved something.
        track: A tracker that also gets the figures, if its package is installed: wandb, mlflow,
            or another that accelerate knows.
    """
    share_cpus()
    from dirprune.report.runs.page import write_report
    from dirprune.train.display import ConsoleDisplay
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder

    over = resume and (RunFolder(out).read_summary() or {}).get("status") == "finished"
    figures = published(config)
    recipe = {"name": config.model, "published": figures} if figures else None
    summary = train_run(
        config,
        out,
        resume=resume,
        overwrite=overwrite,
        recipe=recipe,
        display=ConsoleDisplay(),
        track=track,
    )
    if not is_first():
        return
    if over:
        print(f"{out} is already finished")
    print_runs({config.method: summary})
    print(f"report: {write_report([out], out / 'report.html')}")


def compare(
    config: TrainConfig,
    out: Out,
    methods: tuple[str, ...] = COMPARED,
    seeds: tuple[int, ...] = (1, 2, 3),
    lrs: tuple[float, ...] | None = None,
    part: str | None = None,
    track: str | None = None,
) -> None:
    """Compare methods at gRDA's sparsity, with equal epochs, initial weights and batches.

    To continue after an interruption, give the same command again.

    For array jobs on a shared folder, --part 2/8 trains the second of eight parts of the runs.
    Repeat the parts, or the command without --part, until nothing is missing.

    Args:
        config: Settings of all runs; momentum and weight decay apply to the momentum methods.
        out: Folder of the comparison.
        methods: Names of methods.
        seeds: Every method is trained once with each seed.
        lrs: Learning rates to choose from, for every method, on held-out training data; by
            default --lr alone.
        part: I/N: the part of the runs to train, with I from 1 to N; by default everything.
        track: As for train, for every run.
    """
    if part is not None:
        Part.parse(part)
    share_cpus()
    from dirprune.report.runs.page import write_report
    from dirprune.study.compare import compare as compare_methods
    from dirprune.study.comparison import finished_runs, has_missing_runs
    from dirprune.study.tables import markdown_text

    table = compare_methods(
        config, out, methods=methods, seeds=seeds, lrs=lrs, part=part, track=track
    )
    runs = [out / run for run in finished_runs(out)]
    if not runs:
        return
    print(markdown_text(table))
    if not has_missing_runs(out):
        _ship(runs)
    page = write_report([out], out / "report.html")
    print(f"report: {page}")


def tune(
    config: TrainConfig,
    out: Out,
    mus: tuple[float, ...] = (0.501, 0.51, 0.55),
    cs: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    tune_epochs: int = 3,
    tolerance: float = 0.01,
) -> None:
    """Choose c and mu by the authors' rule: the largest c that keeps early accuracy.

    To continue after an interruption, give the same command again. The trials follow one another,
    so there is no --part: array jobs start one tune for each mu, each in its own folder.

    Args:
        config: Config of the final run; accuracy is measured on held-out training data.
        out: Folder of the trials.
        mus: Exponents to try.
        cs: Scales to try with each, smallest first.
        tune_epochs: Epochs of a trial; the paper's authors recommend 1 to 5.
        tolerance: Largest accepted loss of accuracy compared with c = 0, as a share.
    """
    share_cpus()
    from dirprune.study.tune import tune as tune_trials
    from dirprune.train.display import ConsoleDisplay

    result = tune_trials(
        config,
        out,
        mus=mus,
        cs=cs,
        epochs=tune_epochs,
        tolerance=tolerance,
        display=ConsoleDisplay(),
    )
    print_trials(result)
    chosen = replace(config, mu=result.chosen.mu, c=result.chosen.c)
    print(f"now: dirprune train {given_options(chosen)} --out RUN")
    if chosen.target_sparsity is None:
        left = config.epochs > tune_epochs
        of, more = (f" of {config.epochs}", ", and more from then on") if left else ("", "")
        print_text(
            f"its zeros are a result, not a choice: {result.chosen.sparsity:.0%} after "
            f"{tune_epochs}{of} epochs{more}. To end at 90 %: add "
            "--target-sparsity 0.9; the threshold then follows a plan instead of c and mu"
        )


def demo(out: Out = Path("runs/demo"), resume: bool = False, overwrite: bool = False) -> None:
    """Train SGD and gRDA on real digits with the same initial weights and batches; export both.

    Args:
        out: Folder of the two run folders and their report.
        resume: Continue the interrupted demo in the folder.
        overwrite: Replace earlier runs in the folder.
    """
    share_cpus()
    from dirprune.report.runs.page import write_report
    from dirprune.train.display import ConsoleDisplay
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder

    summaries = {}
    for method in ("sgd", "grda"):
        config, folder = replace(DEMO, method=method), out / method
        begun = resume and RunFolder(folder).config.exists()
        summaries[method] = train_run(
            config, folder, resume=begun, overwrite=overwrite, display=ConsoleDisplay()
        )
    print_runs(summaries)
    _ship([out / method for method in summaries])
    page = write_report([out / method for method in summaries], out / "report.html")
    print(f"report: {page}")


def _ship(runs: list[Path]) -> None:
    """Export runs and print the result, or why a network cannot be exported."""
    from dirprune.cli.shipping import ship

    found = {}
    for run in runs:
        try:
            export = ship(run)
        except ValueError as problem:
            print_text(f"{run} is not exported: {problem}")
            continue
        found[str(run)] = export
    print_exports(found)
