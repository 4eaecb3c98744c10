"""What the program can be told to do: a function a command, whose arguments are its options.

What a command needs is imported when it runs: help and mistakes in the words take no torch.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import tyro

from dirprune.cli.printing import print_exports, print_runs, print_target, print_trials
from dirprune.survey.config import SurveyConfig
from dirprune.train.config import TrainConfig
from dirprune.train.names import COMPARED
from dirprune.train.recipes import published

DEMO = TrainConfig()
"""What the demo trains with each method."""


def is_first() -> bool:
    """Whether this is the one process that reports, of those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


def train(config: TrainConfig, out: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Train one network and write its run folder, with a report.

    With --recipe NAME, the options default to those of a row of the paper or of its scaled-down
    twin, instead of the digits demo.

    Args:
        config: What to train, and how.
        out: Folder of the run.
        resume: Go on with the run in the folder, to the same bits as without the stop.
        overwrite: Replace the run in the folder, as soon as the new one has saved something.
    """
    from dirprune.report.runs.page import write_report
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder

    over = resume and (RunFolder(out).read_summary() or {}).get("status") == "finished"
    figures = published(config)
    recipe = {"name": config.model, "published": figures} if figures else None
    summary = train_run(config, out, resume=resume, overwrite=overwrite, recipe=recipe)
    if not is_first():
        return
    if over:
        print(f"{out} had finished: there was nothing left to do")
    print_runs({config.method: summary})
    print_target(config, summary)
    print(f"report: {write_report([out], out / 'report.html')}")


def compare(
    config: TrainConfig,
    out: Path,
    methods: tuple[str, ...] = COMPARED,
    seeds: tuple[int, ...] = (1, 2, 3),
    lrs: tuple[float, ...] = (0.1,),
) -> None:
    """Compare methods: equal epochs, same weights and batches, at gRDA's sparsity.

    Give the same command again to go on after a stop.

    Args:
        config: What all runs share; momentum and weight decay are for the methods that have them.
        out: Folder of the comparison.
        methods: Names of methods.
        seeds: One run of every method each.
        lrs: Learning rates to choose from, on held-out training data, for every method.
    """
    from dirprune.report.runs.page import write_report
    from dirprune.study.compare import compare as compare_methods
    from dirprune.study.comparison import finished_runs
    from dirprune.study.tables import markdown_text

    table = compare_methods(config, out, methods=methods, seeds=seeds, lrs=lrs)
    print(markdown_text(table))
    _ship([out / run for run in finished_runs(out)])
    page = write_report([out], out / "report.html")
    print(f"report: {page}")


def tune(
    config: TrainConfig,
    out: Path,
    mus: tuple[float, ...] = (0.501, 0.51, 0.55),
    cs: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    tune_epochs: int = 3,
    tolerance: float = 0.01,
) -> None:
    """Choose c and mu by the authors' rule: the largest c that keeps early accuracy.

    Give the same command again to go on after a stop.

    Args:
        config: The run to choose for; accuracy is taken on held-out training data.
        out: Folder of the trials.
        mus: Exponents to try.
        cs: Scales to try with each, smallest first.
        tune_epochs: Epochs of a trial; the paper's authors advise 1 to 5.
        tolerance: Accuracy that may be lost against c = 0, as a fraction.
    """
    from dirprune.study.tune import tune as tune_trials

    result = tune_trials(config, out, mus=mus, cs=cs, epochs=tune_epochs, tolerance=tolerance)
    print_trials(result)
    print(f"now: dirprune train ... --mu {result.chosen.mu:g} --c {result.chosen.c:g}")


def demo(out: Path = Path("runs/demo"), resume: bool = False, overwrite: bool = False) -> None:
    """Train SGD and gRDA on real digits, from the same weights on the same batches; ship both.

    Args:
        out: Folder of the two run folders and their report.
        resume: Go on with what is in the folder.
        overwrite: Replace earlier runs in the folder.
    """
    from dirprune.report.runs.page import write_report
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder

    summaries = {}
    for method in ("sgd", "grda"):
        config, folder = replace(DEMO, method=method), out / method
        begun = resume and RunFolder(folder).config.exists()
        summaries[method] = train_run(config, folder, resume=begun, overwrite=overwrite)
    print_runs(summaries)
    _ship([out / method for method in summaries])
    page = write_report([out / method for method in summaries], out / "report.html")
    print(f"report: {page}")


def landscape(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    options: SurveyConfig = SurveyConfig(),  # noqa: B008 (frozen)
) -> None:
    """Measure the loss landscape around finished runs: do they lie in one valley?

    Give the same command again to go on after a stop. Controls are made of the first run:
    magnitude pruning, soft-thresholding, a random direction.

    Args:
        runs: Run folders, or .safetensors files with --model: first the dense reference (SGD),
            then the sparse one (gRDA), then others to compare with.
        out: Folder of landscape.json.
        options: What is measured, and how finely.
    """
    from dirprune.report.runs.page import write_report
    from dirprune.survey.survey import survey

    survey(runs, options, out)
    if is_first():
        print(f"report: {write_report([out], out / 'report.html')}")


def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Draw the report of runs, of a comparison, or of a landscape.

    Args:
        runs: Run folders, or one folder of a comparison or a landscape.
        out: The page; report.html in the first folder by default.
    """
    from dirprune.report.runs.page import write_report

    if not runs:
        raise ValueError("report needs at least one run folder, got none")
    print(f"report: {write_report(runs, out or runs[0] / 'report.html')}")


def export(
    source: tyro.conf.Positional[str],
    out: Path,
    onnx: Path | None = None,
    values: Literal["float32", "float16", "int8"] = "float32",
    checkpoint: Path | None = None,
    classes: int = 1000,
    size: int = 224,
    trust_model: bool = False,
) -> None:
    """Shrink a network without changing its outputs, and save it as one compact file.

    Args:
        source: Folder of a finished run; or the name of a model, as train takes it.
        out: The compact file.
        onnx: A file of ONNX to write as well.
        values: How weights are stored; float32 keeps every bit.
        checkpoint: Of a model by name: a safetensors file of its weights.
        classes: Of a model by name: number of outputs.
        size: Of a model by name: height and width of its images.
        trust_model: Build a model that the run names as module.path:callable, which runs its code.
    """
    import torch

    from dirprune.deploy import export_onnx, save, shrink
    from dirprune.train.trained import named_network, trained_network

    if Path(source).is_dir():
        net, shape = trained_network(Path(source), trust_model=trust_model)
    elif checkpoint is None:
        raise ValueError(
            f"{source} is no run folder: give one, or the name of a model with --checkpoint"
        )
    else:
        net, shape = named_network(source, checkpoint, num_classes=classes, size=size)
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    small = shrink(net, example)
    print(small.report)
    print(save(small, out, example, values=values))
    if onnx is not None:
        print(export_onnx(small, onnx, example))


def bench(
    model: tyro.conf.Positional[Path],
    vs: str = "torch,onnxruntime,openvino",
    batch: str = "1,16",
    threads: str = "1,2",
    rounds: int = 20,
    out: Path | None = None,
    break_even: bool = False,
) -> None:
    """Measure a compact file here and in other runtimes, in turn in one process.

    Args:
        model: The compact file.
        vs: Runtimes to compare with, separated by commas; besides onnxruntime-int8, openvino-int8.
        batch: Batch sizes, separated by commas.
        threads: Numbers of threads, separated by commas.
        rounds: Timed calls of each.
        out: A JSON file for the figures.
        break_even: Also find from which sparsity on it is faster than the fastest of them, by
            masking it at the first batch size and number of threads.
    """
    from dirprune._support.files import write_json
    from dirprune.bench import benchmark
    from dirprune.bench.break_even import break_even as find_break_even

    peers = tuple(filter(None, vs.split(",")))
    batches, counts = _numbers("batch", batch), _numbers("threads", threads)
    figures = benchmark(model, against=peers, batches=batches, threads=counts, rounds=rounds)
    print(figures)
    record = asdict(figures)
    if break_even:
        crossing = find_break_even(
            model, against=peers, batch=batches[0], threads=counts[0], rounds=rounds
        )
        print(crossing)
        record["break_even"] = asdict(crossing)
    if out is not None:
        write_json(out, record)
        print(f"figures: {out}")


def _numbers(option: str, words: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"--{option} takes whole numbers such as 1,16, got {words!r}") from None


def _ship(runs: list[Path]) -> None:
    """Export runs, and print what came of it; networks that cannot be exported are named."""
    from dirprune.cli.shipping import ship

    found = {}
    for run in runs:
        try:
            export = ship(run)
        except ValueError as problem:
            print(f"{run} is not exported: {problem}")
            continue
        found[str(run)] = export
    print_exports(found)


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "compare": compare,
    "tune": tune,
    "landscape": landscape,
    "report": report,
    "export": export,
    "bench": bench,
    "demo": demo,
}
"""Every command, by its name on the command line."""
