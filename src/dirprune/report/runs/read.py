"""Reading and checking the files of a run folder, as frozen dataclasses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any

from dirprune._support.decode import build
from dirprune._support.files import parse_json, read_json, read_text
from dirprune.report.shared.numbers import Number, short_name


@dataclass(frozen=True)
class Epoch:
    """One line of ``metrics.jsonl``; accuracies and sparsity in [0, 1]."""

    epoch: int
    step: int
    train_loss: Number
    test_loss: Number
    test_accuracy: Number
    sparsity: Number
    nonzeros: Number
    threshold: Number
    l2_over_l1: Number


@dataclass(frozen=True)
class Layer:
    """Zeros of one parameter tensor, and its rows and columns of zeros."""

    name: str
    shape: tuple[int, ...]
    zeros: int
    total: int
    dead_outputs: int | None
    outputs: int | None
    unread_inputs: int | None
    inputs: int | None
    kind: str = ""

    @property
    def title(self) -> str:
        """Name and type, such as "features.0 (Conv2d)"."""
        kind = self.kind or {2: "matrix", 4: "2-d kernel"}.get(len(self.shape), "tensor")
        return f"{short_name(self.name)} ({kind})"


@dataclass(frozen=True)
class ThresholdPath:
    """The largest threshold g at some steps."""

    step: tuple[int, ...]
    g: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """``counts[i]`` values lie between ``edges[i]`` and ``edges[i + 1]``."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that there is one more edge than counts."""
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(
                f"a histogram needs one edge more than counts, got {len(self.edges)} edges"
                f" and {len(self.counts)} counts"
            )


@dataclass(frozen=True)
class Histograms:
    """Histograms of the weights and, for methods that have them, of the accumulators v."""

    weights: Histogram | None
    accumulators: Histogram | None


@dataclass(frozen=True)
class Deployed:
    """The exported network: its size, the size of the dense file, and ms per inference."""

    file_bytes: Number
    dense_bytes: Number
    latency_ms: Mapping[str, Number]


@dataclass(frozen=True)
class RunSummary:
    """``summary.json``: the final figures of a run."""

    status: str
    train_loss: Number
    test_loss: Number
    test_accuracy: Number
    sparsity: Number
    zeros: int | None
    nonzeros: Number
    total: int | None
    threshold: Number
    seconds_per_epoch: Number
    peak_memory_mib: Number
    weights_bytes: Number
    weights_zstd_bytes: Number
    best: Mapping[str, Any] | None
    layers: tuple[Layer, ...] | None
    threshold_path: ThresholdPath | None
    histograms: Histograms | None
    deploy: Deployed | None = None
    test_images: int | None = None


@dataclass(frozen=True)
class Run:
    """One training run; ``summary`` is None until it has ended."""

    name: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    summary: RunSummary | None

    @property
    def status(self) -> str:
        """finished, diverged, interrupted, or unfinished if there is no summary."""
        return self.summary.status if self.summary else "unfinished"

    @property
    def total(self) -> int | None:
        """All trainable parameters, the denominator of sparsity."""
        if self.summary:
            return self.summary.total
        last = self.epochs[-1] if self.epochs else None
        if last is None or not last.nonzeros or last.sparsity is None or not last.sparsity < 1:
            return None
        return round(last.nonzeros / (1 - last.sparsity))

    def final(self, name: str) -> Number:
        """A figure of the summary or, without a summary, of the latest epoch."""
        source = self.summary or (self.epochs[-1] if self.epochs else None)
        value: Number = getattr(source, name, None)
        return value


@dataclass(frozen=True)
class Results:
    """All runs of a report, and the learning-rate grid if it is a comparison with one."""

    runs: tuple[Run, ...]
    lr_grid: Mapping[str, Any] | None


def read_results(folders: Sequence[Path]) -> Results:
    """Read run folders and comparison folders, in the order given.

    Args:
        folders: At least one folder; each contains a ``config.json`` (a run), a
            ``comparison.json``, or run folders at any depth.

    Returns:
        Every run once, named by its path relative to the common folder of all runs.

    Raises:
        FileNotFoundError: If a folder or its config.json does not exist.
        ValueError: If a file was not written by ``dirprune train``, or no folder is given.
    """
    if not folders:
        raise ValueError("a report needs at least one run or comparison folder, got none")
    found: dict[Path, None] = {}
    lr_grid: Mapping[str, Any] | None = None
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: give one that dirprune train wrote")
        runs = [folder]
        if (folder / "comparison.json").is_file():
            runs, grid = _read_comparison(folder)
            lr_grid = {**(lr_grid or {}), **grid}
        elif not (folder / "config.json").is_file():
            runs = _runs_inside(folder) or [folder]
        found.update(dict.fromkeys(run.resolve() for run in runs))
    paths = list(found)
    above = Path(commonpath(paths)) if len(paths) > 1 else paths[0].parent
    names = [path.relative_to(above).as_posix() for path in paths]
    return Results(
        tuple(read_run(p, name=n) for p, n in zip(paths, names, strict=True)), lr_grid or None
    )


def _runs_inside(folder: Path) -> list[Path]:
    """The run folders at any depth, without the hidden ones of runs that are being replaced."""
    inside = (path.relative_to(folder).parent for path in folder.rglob("config.json"))
    return sorted(folder / run for run in inside if not any(p.startswith(".") for p in run.parts))


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read one run folder, finished or not.

    Args:
        folder: Folder with ``config.json`` and, if they exist, ``metrics.jsonl`` and
            ``summary.json``.
        name: Name of the run in the report; by default the folder's name.

    Returns:
        The run, without an incomplete last line of the metrics.

    Raises:
        FileNotFoundError: If ``config.json`` does not exist.
        ValueError: If a file was not written by ``dirprune train``.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json: give a folder that dirprune train wrote"
        )
    record = read_json(folder / "config.json")
    config = record.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} has no 'config': it is not a run of dirprune")
    needed = {"method": str, "model": str, "data": str, "seed": int, "epochs": int}
    for key, kind in needed.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(
                f"{folder / 'config.json'} has no {kind.__name__} 'config.{key}':"
                " it is not a run of dirprune"
            )
    rest = {key: value for key, value in record.items() if key not in ("config", "recipe")}
    recipe = record.get("recipe")
    path = folder / "summary.json"
    summary = build(RunSummary, read_json(path), str(path)) if path.is_file() else None
    return Run(
        name=name if name is not None else folder.name,
        config=config,
        recipe=recipe if isinstance(recipe, dict) else None,
        environment=rest,
        epochs=_read_metrics(folder / "metrics.jsonl"),
        summary=summary,
    )


def _read_comparison(folder: Path) -> tuple[list[Path], Mapping[str, Any]]:
    path = folder / "comparison.json"
    record = read_json(path)
    runs = record.get("runs")
    if runs == []:
        raise ValueError(f"no run of {folder} has finished yet: wait, or resume the comparison")
    if not isinstance(runs, list) or not all(isinstance(r, str) for r in runs):
        raise ValueError(f"{path} has no list 'runs' of folders: dirprune did not write it")
    for run in runs:
        if Path(run).is_absolute() or ".." in Path(run).parts:
            raise ValueError(f"{path} names a run outside its own folder: {run!r}")
        if not (folder / run).is_dir():
            raise FileNotFoundError(
                f"{path} names {run!r}, which is not there: give the existing run folders"
            )
    grid = record.get("lr_grid")
    return [folder / run for run in runs], grid if isinstance(grid, dict) else {}


def _read_metrics(path: Path) -> tuple[Epoch, ...]:
    """Return every epoch once: the later line if a resumed run repeated one."""
    if not path.is_file():
        return ()
    lines = read_text(path).split("\n")
    last = len(lines) - 1  # text after the last newline: empty, unless the writer was killed
    epochs = {}
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError:
            if i == last:
                break
            raise ValueError(f"{path}, line {i + 1} is not JSON: the file is damaged") from None
        epoch = build(Epoch, record, f"{path}, line {i + 1}")
        epochs[epoch.epoch] = epoch
    return tuple(epochs[e] for e in sorted(epochs))
