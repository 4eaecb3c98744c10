"""What happened, in words and in table cells, from the numbers of the files alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dirprune.report.runs.arms import Arm, Statistic, family, statistic, task
from dirprune.report.runs.read import Number

COLUMNS = (
    "test accuracy, %",
    "test loss",
    "train loss",
    "sparsity, %",
    "nonzeros",
    "s / epoch",
    "peak memory, MiB",
    "compressed, kB",
)
DEPLOYED = ("exported file, kB", "latency, ms")


@dataclass(frozen=True)
class Row:
    """One line of the results table; ``cells`` stand below ``columns``."""

    label: str
    colour: str
    seeds: str
    points: str
    cells: tuple[str, ...]


def headline(arms: Sequence[Arm]) -> list[str]:
    """A sentence for each gRDA arm, or for every arm where there is none; at most four.

    Args:
        arms: At least one.

    Returns:
        Such as "gRDA: 91.9 % zeros at 98.1 % test accuracy, 0.3 points above SGD."
    """
    subjects = [arm for arm in arms if family(arm.method) == "grda"] or list(arms)
    return [_sentence(arm, arms) for arm in subjects[:4]]


def columns(arms: Sequence[Arm]) -> tuple[str, ...]:
    """What the cells of the rows are, the exported file among it where there is one."""
    return COLUMNS + (DEPLOYED if _deployed(arms) else ())


def rows(arms: Sequence[Arm]) -> list[Row]:
    """The results table, a row an arm: means and standard deviations of its counted runs."""
    exported = _deployed(arms)
    return [_row(arm, arms, exported) for arm in arms]


def rows_of_runs(arms: Sequence[Arm]) -> list[Row]:
    """The same table with a row for every single run."""
    exported = _deployed(arms)
    singles = [replace(arm, label=run.name, runs=(run,)) for arm in arms for run in arm.runs]
    return [replace(_row(single, (), exported), label=single.label) for single in singles]


def baseline(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The dense twin to measure against: SGD on the same task, with momentum if the arm has."""
    twin = "sgd_momentum" if arm.method.endswith("_momentum") else "sgd"
    for other in arms:
        alike = task(other.config) == task(arm.config)
        alike = alike and other.config["epochs"] == arm.config["epochs"]
        if alike and other.method == twin and other is not arm and other.is_finished:
            return other
    return None


def percent(value: Number, digits: int = 1) -> str:
    r"""A share in [0, 1] as text, with a dash for what was not measured.

    Example:
        >>> percent(0.9187)
        '91.9\xa0%'
    """
    return "–" if value is None else f"{fixed(100 * value, digits)}\N{NO-BREAK SPACE}%"


def _sentence(arm: Arm, arms: Sequence[Arm]) -> str:
    zeros, accuracy = arm.final("sparsity"), arm.final("test_accuracy")
    if zeros.mean is None and accuracy.mean is None:
        return f"{arm.label}: no epoch is complete yet."
    kinds = {run.status for run in arm.counted}
    last = max((run.epochs[-1].epoch for run in arm.runs if run.epochs), default=0)
    where = f"epoch {last} of {arm.config['epochs']}"
    if kinds == {"diverged"}:
        return (
            f"{arm.label} diverged in {where}; its last figures are"
            f" {percent(zeros.mean)} zeros and {percent(accuracy.mean)} test accuracy."
        )
    so_far = "" if kinds == {"finished"} else f" (so far, {where})"
    text = f"{arm.label}{so_far}: {percent(zeros.mean)} zeros at {_spread(accuracy)} test accuracy"
    if len(arm.counted) == 1 and kinds == {"finished"}:
        text += " (one seed)"
    twin = baseline(arm, arms)
    if twin is not None and not so_far:
        text += f", {_difference(accuracy, twin.final('test_accuracy'), twin.label)}"
    left_out = len(arm.runs) - len(arm.counted)
    if left_out:
        text += f"; {left_out} of {len(arm.runs)} runs did not finish and {_is(left_out)} left out"
    return f"{text}.{_promised(arm)}"


def _spread(value: Statistic) -> str:
    """Such as "98.1 ± 0.2 %"."""
    text = percent(value.mean)
    if value.std is None:
        return text
    return text.replace("\N{NO-BREAK SPACE}", f" ± {fixed(100 * value.std, 1)} ").replace(
        " ", "\N{NO-BREAK SPACE}"
    )


def _difference(ours: Statistic, theirs: Statistic, name: str) -> str:
    if ours.mean is None or theirs.mean is None or not math.isfinite(ours.mean - theirs.mean):
        return f"not comparable with {name}"
    points = round(100 * (ours.mean - theirs.mean), 1)
    if points == 0:
        return f"level with {name}"
    noun = "point" if abs(points) == 1 else "points"
    return f"{abs(points):.1f} {noun} {'above' if points > 0 else 'below'} {name}"


def _promised(arm: Arm) -> str:
    """What the paper reports for the recipe that the runs follow."""
    recipe = arm.runs[0].recipe or {}
    figures = recipe.get("published")
    if not isinstance(figures, dict):
        return ""
    accuracy, zeros = figures.get("test_accuracy"), figures.get("sparsity")
    if not isinstance(accuracy, float) or not isinstance(zeros, (int, float)):
        return ""
    return f" The paper reports {percent(accuracy)} at {percent(zeros)} zeros for this recipe."


def _row(arm: Arm, arms: Sequence[Arm], exported: bool) -> Row:
    twin = baseline(arm, arms) if arm.is_finished else None
    ours = arm.final("test_accuracy").mean
    theirs = twin.final("test_accuracy").mean if twin else None
    points = (
        "" if ours is None or theirs is None else f"{100 * (ours - theirs):+.2f}".replace("-", "−")
    )
    return Row(
        label=arm.label,
        colour=arm.colour,
        seeds=", ".join(str(run.config["seed"]) for run in arm.runs) + _unless_finished(arm),
        points=points,
        cells=(
            _cell(arm, "test_accuracy", lambda x: fixed(100 * x, 2)),
            _cell(arm, "test_loss", significant),
            _cell(arm, "train_loss", significant),
            _cell(arm, "sparsity", lambda x: fixed(100 * x, 2)),
            _cell(arm, "nonzeros", lambda x: fixed(x, 0)),
            _cell(arm, "seconds_per_epoch", significant),
            _cell(arm, "peak_memory_mib", lambda x: fixed(x, 0)),
            _cell(arm, "weights_zstd_bytes", lambda x: fixed(x / 1000, 1)) + _ratio(arm),
            *(_export(arm) if exported else ()),
        ),
    )


def _deployed(arms: Sequence[Arm]) -> bool:
    return any(run.summary and run.summary.deploy for arm in arms for run in arm.runs)


def _export(arm: Arm) -> tuple[str, str]:
    """Size with its ratio to the dense file, and the mean latency of every way to run it."""
    found = [run.summary.deploy for run in arm.counted if run.summary and run.summary.deploy]
    size = statistic(one.file_bytes for one in found).mean
    if size is None:
        return "–", "–"
    pairs = [(one.dense_bytes, one.file_bytes) for one in found]
    times = statistic(dense / small for dense, small in pairs if dense and small).mean
    ways = dict.fromkeys(way for one in found for way in one.latency_ms)
    means = {way: statistic(one.latency_ms.get(way) for one in found).mean for way in ways}
    told = [f"{way} {significant(mean)}" for way, mean in means.items() if mean is not None]
    ratio = f" ({times:.1f}×)" if times else ""
    return f"{fixed(size / 1000, 1)}{ratio}", ", ".join(told) or "–"


def _unless_finished(arm: Arm) -> str:
    """Such as " (2 finished, 1 diverged)", or nothing where all went well."""
    kinds = [run.status for run in arm.runs]
    if set(kinds) == {"finished"}:
        return ""
    if len(kinds) == 1:
        last = arm.runs[0].epochs[-1].epoch if arm.runs[0].epochs else 0
        return f" ({kinds[0]}, epoch {last} of {arm.config['epochs']})"
    return f" ({', '.join(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))})"


def _cell(arm: Arm, name: str, text: Callable[[float], str]) -> str:
    value = arm.final(name)
    if value.mean is None:
        return "–"
    if value.std is None or text is not significant:
        return text(value.mean) + (f" ± {text(value.std)}" if value.std is not None else "")
    digits = 3 if value.std == 0 else max(0, 1 - math.floor(math.log10(value.std)))
    return f"{fixed(value.mean, digits)} ± {fixed(value.std, digits)}"


def _ratio(arm: Arm) -> str:
    """How many times smaller the compressed file is than the dense weights."""
    pairs = [(run.final("weights_bytes"), run.final("weights_zstd_bytes")) for run in arm.counted]
    ratio = statistic(dense / small for dense, small in pairs if dense and small).mean
    return f" ({ratio:.1f}×)" if ratio else ""


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals, thousands set apart."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else _odd(value)


def significant(value: float) -> str:
    """A number of four digits that count."""
    return f"{value:.4g}" if math.isfinite(value) else _odd(value)


def _odd(value: float) -> str:
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
