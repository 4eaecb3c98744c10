"""The results on a page: four cards and the tables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from dirprune._support.sizes import size_text
from dirprune.report.runs.arms import Arm, Statistic, baseline, statistic, subject
from dirprune.report.shared.numbers import (
    MISSING,
    Number,
    brief,
    fixed,
    percent,
    signed,
    significant,
    times,
)
from dirprune.report.shared.page import Card
from dirprune.report.shared.tables import Columns, Table, TableRow, tabulate


def cards(arms: Sequence[Arm]) -> list[Card]:
    """Return accuracy, zeros, file size and latency of the main arm."""
    arm = subject(arms)
    twin = baseline(arm, arms) if arm.is_finished else None
    points, (size, ratio), timed = points_above(arm, twin), file_size(arm), latency(arm)
    seeds = f"{len(arm.counted)} seed{'s' if len(arm.counted) > 1 else ''}"
    accuracy = _mean_and_std(arm.final("test_accuracy"))
    return [
        Card("Accuracy", accuracy, seeds)
        if twin is None or points is None
        else Card(f"Accuracy against {twin.label}", f"{signed(points)} points",
                  f"{accuracy}, {seeds}"),
        Card("Zeros", percent(arm.final("sparsity").mean), "of all trainable parameters"),
        Card("File", f"{times(ratio)} smaller", size_text(size))
        if ratio and size
        else Card("File", MISSING, "not exported yet"),
        Card("Latency", f"{brief(timed[0])} ms",
             f"{timed[1]} takes {times(timed[2])} as long" if timed[2] else "per image")
        if timed
        else Card("Latency", MISSING, "not measured: dirprune bench"),
    ]  # fmt: skip


def summary_table(arms: Sequence[Arm]) -> Table:
    """Return the main figures, one row per arm."""
    columns: Columns[Arm] = {
        "zeros, %": lambda a: _cell(a, "sparsity", _hundredths),
        "test accuracy, %": lambda a: _cell(a, "test_accuracy", _hundredths),
        "against dense, points": lambda a: _against_dense(a, arms),
        "file, kB": _file_cell,
        "latency, ms": _latency_cell,
        "seeds": seeds_text,
    }
    note = (
        "Figures of the last epoch. Zeros: exact zeros / all trainable parameters. Several seeds:"
        " mean ± sample standard deviation over finished runs. File: the exported file or, without"
        " an export, the weights compressed by zstd; in brackets, dense size / file size. Dense:"
        " the same optimizer without pruning."
    )
    items = [(arm.label, arm.colour, arm) for arm in arms]
    return tabulate("Results", "setting", columns, items, note)


def full_table(arms: Sequence[Arm]) -> Table:
    """Return all final figures, one row per run."""
    columns: Columns[Arm] = {
        "test accuracy, %": lambda a: _cell(a, "test_accuracy", _hundredths),
        "zeros, %": lambda a: _cell(a, "sparsity", _hundredths),
        "nonzeros": lambda a: _cell(a, "nonzeros", _integer),
        "test loss": lambda a: _cell(a, "test_loss", significant),
        "train loss": lambda a: _cell(a, "train_loss", significant),
        "peak memory, MiB": lambda a: _cell(a, "peak_memory_mib", _integer),
        "weights after zstd, kB": _compressed,
        "status": lambda a: a.runs[0].status,
    }
    runs = [replace(arm, label=run.name, runs=(run,)) for arm in arms for run in arm.runs]
    return tabulate("Every run", "run", columns, [(run.label, run.colour, run) for run in runs])


def layer_table(arm: Arm) -> Table | None:
    """Return the zeros of every tensor of an arm's first counted run."""
    summary = arm.counted[0].summary
    rows = tuple(
        TableRow(
            layer.name,
            arm.colour,
            (
                layer.kind or MISSING,
                " × ".join(map(str, layer.shape)),
                fixed(layer.zeros, 0),
                fixed(layer.total, 0),
                fixed(100 * layer.zeros / layer.total, 2) if layer.total else MISSING,
                _share(layer.dead_outputs, layer.outputs),
                _share(layer.unread_inputs, layer.inputs),
            ),
        )
        for layer in (summary.layers or () if summary else ())
    )
    columns = ("type", "shape", "zeros", "of", "zeros, %", "dead outputs", "unread inputs")
    return Table(f"Layers of {arm.counted[0].name}", "parameter", columns, rows) if rows else None


def points_above(arm: Arm, twin: Arm | None) -> float | None:
    """Accuracy of an arm minus that of its dense counterpart, in percentage points."""
    ours = arm.final("test_accuracy").mean
    theirs = twin.final("test_accuracy").mean if twin else None
    if ours is None or theirs is None or not math.isfinite(ours - theirs):
        return None
    return 100 * (ours - theirs)


def _against_dense(arm: Arm, arms: Sequence[Arm]) -> str:
    points = points_above(arm, baseline(arm, arms)) if arm.is_finished else None
    return MISSING if points is None else signed(points)


def file_size(arm: Arm) -> tuple[Number, Number]:
    """File size in bytes and dense size / file size; without an export, of zstd's output."""
    found = [run.summary.deploy for run in arm.counted if run.summary and run.summary.deploy]
    pairs = [(one.dense_bytes, one.file_bytes) for one in found]
    pairs = pairs or [
        (run.final("weights_bytes"), run.final("weights_zstd_bytes")) for run in arm.counted
    ]
    return (
        statistic(small for _, small in pairs).mean,
        statistic(dense / small for dense, small in pairs if dense and small).mean,
    )


def latency(arm: Arm) -> tuple[float, str, Number] | None:
    """Milliseconds in dirprune's engine, the fastest other runtime, and the ratio of both."""
    found = [run.summary.deploy for run in arm.counted if run.summary and run.summary.deploy]
    names = dict.fromkeys(name for one in found for name in one.latency_ms)
    means = {name: statistic(one.latency_ms.get(name) for one in found).mean for name in names}
    known = {name: mean for name, mean in means.items() if mean}
    if not known:
        return None
    ours = known.pop("dirprune", None) or known.pop(next(iter(known)))
    other = min(known, key=lambda name: known[name], default="")
    return ours, other, known[other] / ours if other else None


def _file_cell(arm: Arm) -> str:
    size, ratio = file_size(arm)
    text = MISSING if size is None else fixed(size / 1000, 1)
    return f"{text} ({times(ratio)})" if ratio else text


def _latency_cell(arm: Arm) -> str:
    timed = latency(arm)
    if timed is None:
        return MISSING
    ours, other, ratio = timed
    return f"{brief(ours)} ({other} {brief(ours * ratio)})" if ratio else brief(ours)


def _compressed(arm: Arm) -> str:
    size, dense = arm.final("weights_zstd_bytes").mean, arm.final("weights_bytes").mean
    if size is None:
        return MISSING
    return fixed(size / 1000, 1) + (f" ({dense / size:.1f}×)" if dense else "")


def seeds_text(arm: Arm) -> str:
    """The seeds and their states, such as "1, 2, 3 (2 finished, 1 diverged)"."""
    text = ", ".join(str(run.config["seed"]) for run in arm.runs)
    kinds = [run.status for run in arm.runs]
    if set(kinds) == {"finished"}:
        return text
    if len(kinds) == 1:
        last = arm.runs[0].epochs[-1].epoch if arm.runs[0].epochs else 0
        return f"{text} ({kinds[0]}, epoch {last} of {arm.config['epochs']})"
    counts = (f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{text} ({', '.join(counts)})"


def _cell(arm: Arm, name: str, text: Callable[[float], str]) -> str:
    """Mean and, if there are several seeds, standard deviation."""
    value = arm.final(name)
    if value.mean is None:
        return MISSING
    if value.std is None or text is not significant:
        return text(value.mean) + (f" ± {text(value.std)}" if value.std is not None else "")
    digits = 3 if value.std == 0 else max(0, 1 - math.floor(math.log10(value.std)))
    return f"{fixed(value.mean, digits)} ± {fixed(value.std, digits)}"


def _mean_and_std(value: Statistic) -> str:
    """A share with its spread, such as "98.1 ± 0.2 %"."""
    if value.mean is None or value.std is None:
        return percent(value.mean)
    return f"{fixed(100 * value.mean, 1)} ± {percent(value.std)}".replace(
        " ", "\N{NO-BREAK SPACE}"
    )


def _share(part: int | None, total: int | None) -> str:
    return MISSING if part is None else f"{part} / {total}"


def _hundredths(share: float) -> str:
    return fixed(100 * share, 2)


def _integer(value: float) -> str:
    return fixed(value, 0)
