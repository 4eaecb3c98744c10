"""The commands for a trained network: export and bench.

A command imports what it needs when it runs, so that help and usage errors load no torch.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dirprune.cli.options import Out
from dirprune.cli.printing import print_benchmark, print_shrunk
from dirprune.cli.tables import print_text

if TYPE_CHECKING:
    from dirprune.deploy.graph.size_requests import DynamicSizes
    from dirprune.deploy.graph.sizes import SizeRange


def export(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|MODEL")],
    out: Out,
    onnx: Path | None = None,
    values: Literal["float32", "float16", "int8"] = "float32",
    checkpoint: Path | None = None,
    classes: int = 1000,
    size: int = 224,
    height: str | None = None,
    width: str | None = None,
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
        height: The heights that the files shall work for, lowest and highest, and a step if
            needed: 64,512 or 64,512,32. By default that of the run's images only.
        width: The widths, likewise.
        trust_model: Build a model that the run names as module.path:callable, which runs its code.
    """
    if onnx is not None and onnx.resolve() == out.resolve():
        raise ValueError(f"--out and --onnx are the same file {out}: give two files")
    import torch

    from dirprune.cli.shipping import dense_bytes
    from dirprune.deploy import export_onnx, save, shrink
    from dirprune.train.trained import named_network, trained_network

    if Path(source).is_dir():
        net, shape = trained_network(Path(source), checkpoint, trust_model=trust_model)
    elif checkpoint is None:
        raise ValueError(
            f"{source} is not a run folder: give one, or the name of a model with --checkpoint"
        )
    else:
        net, shape = named_network(source, checkpoint, num_classes=classes, size=size)
    bounds = {
        dim: _bounds(option, given)
        for dim, option, given in ((2, "height", height), (3, "width", width))
        if given is not None
    }
    sizes = [2, *shape]
    for dim, own in bounds.items():
        sizes[dim] = sizes[dim] if sizes[dim] in own else own.low
    dynamic: DynamicSizes = {0: {d: (own.low, own.high, own.step) for d, own in bounds.items()}}
    example = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
    small = shrink(net, example, dynamic)
    print_shrunk(small.report)
    saved = save(small, out, example, values=values)
    print_text(str(replace(saved, dense_bytes=dense_bytes(net))))
    if onnx is not None:
        print_text(str(export_onnx(net, onnx, example, dynamic)))  # which shrinks it too


def bench(
    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|FILE")],
    vs: str = "torch,onnxruntime,openvino",
    batch: str = "1,16",
    threads: str = "1,2",
    rounds: int = 20,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    break_even: bool = False,
) -> None:
    """Measure the latency of a compact file in dirprune and in other runtimes.

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
    from dirprune._support.files import check_writable, write_json
    from dirprune.bench import benchmark
    from dirprune.bench.break_even import break_even as find_break_even

    if out is not None:
        check_writable(out)
    if model.is_dir():
        model = _exported(model)
    peers = tuple(filter(None, vs.split(",")))
    batches, counts = _numbers("batch", batch), _numbers("threads", threads)
    figures = benchmark(model, against=peers, batches=batches, threads=counts, rounds=rounds)
    print_benchmark(figures)
    record = asdict(figures)
    if break_even:
        crossing = find_break_even(
            model, against=peers, batch=batches[0], threads=counts[0], rounds=rounds
        )
        print_text(str(crossing))
        record["break_even"] = asdict(crossing)
    if out is not None:
        write_json(out, record)
        print(f"figures: {out}")


def _bounds(option: str, words: str) -> "SizeRange":
    from dirprune.deploy.graph.sizes import SizeRange

    numbers = _numbers(option, words)
    if len(numbers) not in (2, 3):
        raise ValueError(
            f"--{option} takes the lowest and the highest size, and a step if needed, such as "
            f"64,512 or 64,512,32; got {words!r}"
        )
    return SizeRange(f"--{option}", *numbers)


def _numbers(option: str, words: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"--{option} takes whole numbers such as 1,16, got {words!r}") from None


def _exported(run: Path) -> Path:
    """Return the compact file in a run folder."""
    if not (run / "config.json").is_file():
        raise FileNotFoundError(f"{run} is not a run: give a run folder, or a file of export")
    file = run / "model.dpz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{run} has no model.dpz: write it with dirprune export {run} --out {file}"
        )
    return file
