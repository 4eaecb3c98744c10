"""The command for the paper's figures: it trains and measures what they show."""

from dataclasses import replace
from pathlib import Path

from dirprune.cli.options import Out
from dirprune.cli.printing import is_first, print_runs
from dirprune.cli.training import share_cpus
from dirprune.survey.config import SurveyConfig
from dirprune.train.config import TrainConfig

FIGURES = TrainConfig(epochs=12, c=0.015, keep_checkpoints=12)
"""The default config: digits, with c for about as many zeros as the demo has after 60 epochs."""

PARTS = "hessian,curve,plane,training"
SKETCH = SurveyConfig(
    PARTS, samples=500, test_samples=300, points=21, grid=9, curve_epochs=5, eigenvectors=5,
    steps=20, probes=1,
)  # fmt: skip
"""A coarse landscape, which takes a minute or two on two CPU cores."""


def figures(
    config: TrainConfig, out: Out = Path("runs/figures"), budget: str | None = None
) -> None:
    """Draw the paper's figures: train SGD twice and gRDA once, and measure the loss around them.

    To continue after an interruption, give the same command again. docs/figures.md says which
    figure of the paper is on which page.

    Args:
        config: Settings of the three runs; they start from the same weights, and the second SGD
            run, the control for "the same valley", has other batches. What sets the zeros applies
            to gRDA; with momentum, all three have it.
        out: Folder of the runs and of both pages.
        budget: Time for the landscape, such as 10m or 2h; by default it is coarse, which takes a
            minute or two with the digits.
    """
    configs = _configs(config)
    options = replace(
        SKETCH if budget is None else SurveyConfig(PARTS, budget=budget),
        trust_model=True,  # the command line has named the model
        device="cpu" if config.device == "cpu" else "auto",
    )
    share_cpus()
    from dirprune.report.runs.page import write_report
    from dirprune.survey.survey import survey
    from dirprune.train.display import ConsoleDisplay
    from dirprune.train.errors import part_of
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder, check_contents

    check_contents(out)
    summaries = {}
    for name, one in configs.items():
        begun = RunFolder(out / name).config.exists()
        with part_of(out):
            summaries[name] = train_run(one, out / name, resume=begun, display=ConsoleDisplay())
    if is_first():
        print_runs(summaries)
        page = write_report([out / "sgd", out / "grda"], out / "report.html")
        print(f"training: {page}")
    survey([out / name for name in configs], options, out / "landscape")
    if is_first():
        page = write_report([out / "landscape"], out / "landscape" / "report.html")
        print(f"landscape: {page}")


def _configs(config: TrainConfig) -> dict[str, TrainConfig]:
    """The configs of the three runs, by name."""
    if not config.c and config.target_sparsity is None:
        raise ValueError("gRDA with c = 0 is SGD: give a --c above 0, or a --target-sparsity")
    kind = "_momentum" if config.momentum else ""
    config = replace(config, sparsity=None, batch_seed=None)
    dense = replace(config, method=f"sgd{kind}", target_sparsity=None, power=None)
    return {
        "sgd": dense,
        "grda": replace(config, method=f"grda{kind}"),
        "sgd-2": replace(dense, batch_seed=(config.seed + 1) % 2**32),
    }
