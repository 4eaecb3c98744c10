"""The commands: a function each, whose arguments are its options.

A command imports what it needs when it runs, so that help and usage errors load no torch.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dirprune.cli.printing import print_exports, print_runs, print_trials
from dirprune.survey.config import SurveyConfig
from dirprune.train.config import TrainConfig
from dirprune.train.names import COMPARED
from dirprune.train.recipes import published

DEMO = TrainConfig()
"""What the demo trains with each method."""

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
"""Where a command writes."""


def is_first() -> bool:
    """Return whether this process prints, among those that torchrun may have started."""
    return int(os.environ.get("RANK", "0")) == 0


def _share_cpus() -> None:
    """Let idle threads sleep instead of spinning; it only works before torch is loaded.

    Two runs of a tiny network on two CPUs otherwise take about a hundred times as long each.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def train(config: TrainConfig, out: Out, resume: bool = False, overwrite: bool = False) -> None:
    """Train one network and write its run folder, with a report.

    With --recipe NAME, the options default to those of a row of the paper or of its scaled-down
    twin, instead of the digits demo.

    Args:
        config: What to train, and how.
        out: Folder of the run.
        resume: Continue the interrupted run in the folder. The result is bit-identical to an
            uninterrupted run.
        overwrite: Replace the run in the folder, as soon as the new run has saved something.
    """
    _share_cpus()
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
    )
    if not is_first():
        return
    if over:
        print(f"{out} had finished: there was nothing left to do")
    print_runs({config.method: summary})
    print(f"report: {write_report([out], out / 'report.html')}")


def compare(
    config: TrainConfig,
    out: Out,
    methods: tuple[str, ...] = COMPARED,
    seeds: tuple[int, ...] = (1, 2, 3),
    lrs: tuple[float, ...] | None = None,
) -> None:
    """Compare methods: equal epochs, same weights and batches, at gRDA's sparsity.

    To continue after an interruption, give the same command again.

    Args:
        config: What all runs share; momentum and weight decay are for the methods that have them.
        out: Folder of the comparison.
        methods: Names of methods.
        seeds: Every method is trained once with each seed.
        lrs: Learning rates to choose from, for every method, on held-out training data; by
            default --lr alone.
    """
    _share_cpus()
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
    out: Out,
    mus: tuple[float, ...] = (0.501, 0.51, 0.55),
    cs: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    tune_epochs: int = 3,
    tolerance: float = 0.01,
) -> None:
    """Choose c and mu by the authors' rule: the largest c that keeps early accuracy.

    To continue after an interruption, give the same command again.

    Args:
        config: The run to choose for; accuracy is taken on held-out training data.
        out: Folder of the trials.
        mus: Exponents to try.
        cs: Scales to try with each, smallest first.
        tune_epochs: Epochs of a trial; the paper's authors advise 1 to 5.
        tolerance: Accuracy that may be lost against c = 0, as a fraction.
    """
    _share_cpus()
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
    print(f"now: dirprune train ... --mu {result.chosen.mu:g} --c {result.chosen.c:g}")


def demo(out: Out = Path("runs/demo"), resume: bool = False, overwrite: bool = False) -> None:
    """Train SGD and gRDA on real digits, from the same weights on the same batches; ship both.

    Args:
        out: Folder of the two run folders and their report.
        resume: Continue the interrupted demo in the folder.
        overwrite: Replace earlier runs in the folder.
    """
    _share_cpus()
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


def landscape(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    out: Out,
    options: SurveyConfig = SurveyConfig(),  # noqa: B008 (frozen)
) -> None:
    """Measure the loss landscape around finished runs: do they lie in one valley?

    To continue after an interruption, give the same command again. Controls are derived from the
    first run: magnitude pruning, soft-thresholding, a random direction.

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


def report(
    runs: tyro.conf.Positional[tuple[Path, ...]],
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
    print(f"report: {write_report([r for run in runs for r in _runs_inside(run)], page)}")


def export(
    source: tyro.conf.Positional[str],
    out: Out,
    onnx: Path | None = None,
    values: Literal["float32", "float16", "int8"] = "float32",
    checkpoint: Path | None = None,
    classes: int = 1000,
    size: int = 224,
    trust_model: bool = False,
) -> None:
    """Shrink a network without changing its outputs, and save it as one compact file.

    Args:
        source: Folder of a run; or the name of a model, as train takes it.
        out: The compact file.
        onnx: An ONNX file to write as well.
        values: How weights are stored; float32 keeps every bit.
        checkpoint: A safetensors file of weights: needed with the name of a model, and instead
            of the final weights with a run.
        classes: Number of outputs of a model given by name.
        size: Height and width of the images of a model given by name.
        trust_model: Build a model that the run names as module.path:callable, which runs its code.
    """
    import torch

    from dirprune.deploy import export_onnx, save, shrink
    from dirprune.train.trained import named_network, trained_network

    if Path(source).is_dir():
        net, shape = trained_network(Path(source), checkpoint, trust_model=trust_model)
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
        print(export_onnx(net, onnx, example))  # which shrinks it too


def bench(
    model: tyro.conf.Positional[Path],
    vs: str = "torch,onnxruntime,openvino",
    batch: str = "1,16",
    threads: str = "1,2",
    rounds: int = 20,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    break_even: bool = False,
) -> None:
    """Measure the latency of a compact file here and in other runtimes, alternately.

    Args:
        model: The compact file, or a run folder that was exported.
        vs: Runtimes to compare with, separated by commas: torch, onnxruntime, openvino,
            onnxruntime-int8, openvino-int8.
        batch: Batch sizes, separated by commas.
        threads: Numbers of threads, separated by commas.
        rounds: Timed calls of each runtime.
        out: A JSON file for the figures.
        break_even: Also find the sparsity above which dirprune is faster than the fastest
            runtime, by masking the network at the first batch size and number of threads.
    """
    from dirprune._support.files import write_json
    from dirprune.bench import benchmark
    from dirprune.bench.break_even import break_even as find_break_even

    if model.is_dir():
        model = _exported(model)
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


def _runs_inside(path: Path) -> list[Path]:
    """The runs in a folder that is itself none, or the folder."""
    known = ("config.json", "comparison.json", "landscape.json")
    if not path.is_dir() or any((path / name).exists() for name in known):
        return [path]
    return sorted(file.parent for file in path.glob("*/config.json")) or [path]


def _exported(run: Path) -> Path:
    """The compact file in a run folder."""
    file = run / "model.dpz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{run} has no model.dpz: write it with dirprune export {run} --out {file}"
        )
    return file


def _ship(runs: list[Path]) -> None:
    """Export runs and print the result; networks that cannot be exported are named."""
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
