"""The command line: parse, call, print; the only place that combines siblings.

What a command needs is imported when it runs: help and mistakes in the words take no torch.
"""

import inspect
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, replace
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from dirprune.survey.config import SurveyConfig
from dirprune.train.config import TrainConfig
from dirprune.train.endings import Diverged, Interrupted
from dirprune.train.names import COMPARED
from dirprune.train.recipes import RECIPES, get_recipe, published

DEMO = TrainConfig()
"""What the demo trains with each method."""


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
    from dirprune.report.page import write_report
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder

    over = resume and (RunFolder(out).read_summary() or {}).get("status") == "finished"
    figures = published(config)
    recipe = {"name": config.model, "published": figures} if figures else None
    summary = train_run(config, out, resume=resume, overwrite=overwrite, recipe=recipe)
    if not _is_first():
        return
    if over:
        print(f"{out} had finished: there was nothing left to do")
    _print_runs({config.method: summary})
    _tell_target(config, summary)
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
    from dirprune.report.page import write_report
    from dirprune.train.compare import compare as compare_methods
    from dirprune.train.comparison import finished_runs
    from dirprune.train.table import markdown_text

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
    from dirprune.train.tune import tune as tune_trials

    result = tune_trials(config, out, mus=mus, cs=cs, epochs=tune_epochs, tolerance=tolerance)
    table = Table(caption="accuracy on held-out training data after the early epochs")
    for title in ("mu", "c", "accuracy", "sparsity", ""):
        table.add_column(title, justify="right")
    for trial in (result.reference, *result.trials):
        mark = "chosen" if trial == result.chosen else ""
        figures = (f"{trial.mu:g}", f"{trial.c:g}", f"{trial.validation_accuracy:.2%}")
        table.add_row(*figures, f"{trial.sparsity:.2%}", mark)
    Console().print(table)
    print(f"now: dirprune train ... --mu {result.chosen.mu:g} --c {result.chosen.c:g}")


def demo(out: Path = Path("runs/demo"), resume: bool = False, overwrite: bool = False) -> None:
    """Train SGD and gRDA on real digits, from the same weights on the same batches; ship both.

    Args:
        out: Folder of the two run folders and their report.
        resume: Go on with what is in the folder.
        overwrite: Replace earlier runs in the folder.
    """
    from dirprune.report.page import write_report
    from dirprune.train.loop import train as train_run
    from dirprune.train.runs import RunFolder

    summaries = {}
    for method in ("sgd", "grda"):
        config, folder = replace(DEMO, method=method), out / method
        begun = resume and RunFolder(folder).config.exists()
        summaries[method] = train_run(config, folder, resume=begun, overwrite=overwrite)
    _print_runs(summaries)
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
    from dirprune.report.page import write_report
    from dirprune.survey.survey import survey

    survey(runs, options, out)
    if _is_first():
        print(f"report: {write_report([out], out / 'report.html')}")


def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Draw the report of runs, of a comparison, or of a landscape.

    Args:
        runs: Run folders, or one folder of a comparison or a landscape.
        out: The page; report.html in the first folder by default.
    """
    from dirprune.report.page import write_report

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
    """
    import torch

    from dirprune.deploy import export_onnx, save, shrink
    from dirprune.train.trained import named_network, trained_network

    if Path(source).is_dir():
        net, shape = trained_network(Path(source))
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
    from dirprune.deploy import benchmark
    from dirprune.deploy.crossover import break_even as find_break_even
    from dirprune.files import write_json

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
"""What the program can be told to do, each with the options of its function."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        The exit status: 0; 1 if training diverged; 2 for a mistake in the command, the data or
        the disk, told in one line; 130 if interrupted.
    """
    complaint = io.StringIO()
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"dirprune {version('dirprune')}")
        return 0
    try:
        with redirect_stderr(complaint):
            command = _parse(words)
    except SystemExit as stop:
        return _fail(_unboxed(complaint.getvalue(), words), 2) if stop.code else 0
    except (ValueError, TypeError) as problem:
        return _fail(problem, 2)
    try:
        command()
    except Diverged as problem:
        return _fail(problem, 1)
    except Interrupted as problem:  # in all processes at once
        return _fail(problem, 130) if _is_first() else 130
    except KeyboardInterrupt:
        return _fail("interrupted; what was saved is kept", 130)
    except (ValueError, TypeError, OSError, ImportError) as problem:
        return _fail(problem, 2)
    return 0


def _parse(arguments: list[str]) -> Callable[[], None]:
    """Turn words into a call that has all its arguments."""
    arguments, start = _take_recipe(arguments)
    parsed: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
        {name: _later(command, start) for name, command in COMMANDS.items()},
        prog="dirprune",
        description="Train sparse with gRDA. --recipe NAME, with train, compare or tune, makes a "
        f"recipe's values the defaults: {', '.join(RECIPES)}. --version says which this is.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed


def _take_recipe(arguments: list[str]) -> tuple[list[str], TrainConfig]:
    """Take --recipe NAME out of the words; what it names replaces the defaults."""
    # --recipe=NAME is --recipe NAME
    arguments = [word for given in arguments for word in re.split("(?<=^--recipe)=", given)]
    if "--recipe" not in arguments:
        # the usual values of the paper's extensions, for the methods that use momentum
        usual = replace(DEMO, momentum=0.9, weight_decay=5e-4)
        return arguments, usual if arguments[:1] == ["compare"] else DEMO
    at = arguments.index("--recipe")
    if at + 1 == len(arguments):
        raise ValueError(f"--recipe needs a name: {', '.join(RECIPES)}")
    return arguments[:at] + arguments[at + 2 :], get_recipe(arguments[at + 1])


def _later(command: Callable[..., None], start: TrainConfig) -> Callable[..., Callable[[], None]]:
    """Make a function that takes the same arguments and returns the call instead of making it."""

    @wraps(command)
    def postponed(*args: object, **kwargs: object) -> Callable[[], None]:
        return partial(command, *args, **kwargs)

    signature = inspect.signature(command)
    parameters = [
        p.replace(default=start) if p.name == "config" else p
        for p in signature.parameters.values()
    ]
    parameters.sort(key=lambda p: p.default is not p.empty)
    postponed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return postponed


def _unboxed(complaint: str, words: list[str]) -> str:
    """Return what the parser says without its frame, its headings and its help texts."""
    lines = [line.strip("╭╮╰╯│+| ") for line in complaint.splitlines()[1:]]
    told, *others = re.split(r"\n[─-]+\n", "\n".join(lines))
    text = re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", told.strip().rstrip("."))
    for other in others:
        if other.startswith("Perhaps you meant"):
            options = dict.fromkeys(re.findall(r"^--[\w-]+", other, re.MULTILINE))
            text += f"; perhaps you meant {' or '.join(options)}"
        elif other.startswith("Available"):
            text += f"; {other}"
    if required := re.match(r"Missing from .*\n(.*)", text):
        text = f"{required[1]} is missing"
    command = f"{words[0]} " if words and words[0] in COMMANDS else ""
    return f"{text}; see dirprune {command}--help"


def _numbers(option: str, words: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"--{option} takes whole numbers such as 1,16, got {words!r}") from None


def _fail(problem: BaseException | str, status: int) -> int:
    print(f"dirprune: {' '.join(str(problem).split())}", file=sys.stderr)
    return status


def _is_first() -> bool:
    """Whether this is the one process that reports, of those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


def _ship(runs: list[Path]) -> None:
    """Export runs, and print sizes and latencies; networks that cannot be exported are named."""
    from dirprune.shipping import ship

    table = Table(caption="shrunk and saved; ms for one image on one thread, median")
    table.add_column("")
    for title in ("file", "dense", "torch", "dirprune"):
        table.add_column(title, justify="right")
    for run in runs:
        try:
            found = ship(run)
        except ValueError as problem:
            print(f"{run} is not exported: {problem}")
            continue
        sizes = (f"{found[key] / 1e3:,.1f} kB" for key in ("file_bytes", "dense_bytes"))
        times = (found["latency_ms"].get(key) for key in ("torch", "dirprune"))
        told = ("-" if ms is None else f"{ms:.3f} ms" for ms in times)
        table.add_row(str(run), *sizes, *told)
    if table.row_count:
        Console().print(table)


def _tell_target(config: TrainConfig, summary: dict[str, Any]) -> None:
    """Say so if a run has missed its target by more than the point that is promised."""
    from dirprune.train.steering import target_of

    target, ended = target_of(config, summary["total"]), summary["sparsity"]
    if target is not None and not config.forecast and abs(ended - target) > 0.01:
        print(
            f"target missed: {ended:.2%} zeros instead of {target:.2%}; give more epochs, or --c"
        )


def _print_runs(summaries: dict[str, dict[str, Any]]) -> None:
    table = Table(caption="sparsity: share of zeros; size: weights after zstd")
    table.add_column("")
    for title in ("test accuracy", "sparsity", "nonzeros", "s/epoch", "size"):
        table.add_column(title, justify="right")
    for name, s in summaries.items():
        table.add_row(
            name,
            f"{s['test_accuracy']:.2%}",
            f"{s['sparsity']:.2%}",
            f"{s['nonzeros']:,}",
            f"{s['seconds_per_epoch']:.2f}",
            f"{s['weights_zstd_bytes'] / 1e3:,.1f} kB",
        )
    Console().print(table)
