"""The figures of a page in their order, each with what one sees and where the paper has it."""

from collections.abc import Sequence

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.runs import figures
from dirprune.report.runs.arms import Arm, family, task
from dirprune.report.runs.words import percent
from dirprune.report.shared.frame import Panel
from dirprune.report.shared.published import published


def panels(arms: Sequence[Arm]) -> list[Panel]:
    """Every figure that has something to show.

    Args:
        arms: At least one.

    Returns:
        In the order of the page.
    """
    made = [*_outcome(arms), *_trajectories(arms), *_network(arms), *_thresholding(arms)]
    return [panel for panel in made if _shows(panel.figure)]


def _outcome(arms: Sequence[Arm]) -> list[Panel]:
    """Accuracy against sparsity, where there is something to compare."""
    same = len({task(arm.config) for arm in arms}) == 1
    paper = published(arms[0].config) if same else None
    if len(arms) == 1 and paper is None:
        return []
    bars = any(len(arm.counted) > 1 for arm in arms)
    caption = (
        "Where each finished setting ends: further up is more accurate, further right sparser,"
        " on an axis that widens towards the sparse end."
        + (" Bars: one standard deviation over the seeds." if bars else "")
        + (f" Hollow: results published with the paper. {paper.note}" if paper else "")
        + " As Figures 4 (left) and 7 of the paper."
    )
    figure = figures.accuracy_against_sparsity(arms, paper)
    return [Panel("outcome", "Accuracy against sparsity", caption, figure)]


def _trajectories(arms: Sequence[Arm]) -> list[Panel]:
    """What was measured after every epoch."""
    return [
        Panel(
            "accuracy",
            "Test accuracy",
            "Test accuracy after every epoch."
            f"{_ends(arms, 'test_accuracy')} As Figures 3 and 8 to 10 of the paper.",
            figures.trajectory(arms, "test_accuracy", "test accuracy, %", 100),
        ),
        Panel(
            "loss",
            "Training loss",
            "Mean training loss of every epoch, on a logarithmic scale; an epoch whose loss was"
            " not finite is a gap. As Figures 3 and 8 to 10 of the paper.",
            figures.loss(arms),
        ),
        Panel(
            "sparsity",
            "Sparsity",
            "Exact zeros among all trainable parameters after every epoch."
            f"{_ends(arms, 'sparsity')} As Figures 3 and 8 to 10 of the paper.",
            figures.trajectory(arms, "sparsity", "sparsity, %", 100),
        ),
    ]


def _network(arms: Sequence[Arm]) -> list[Panel]:
    """Where in the network the zeros are, and what that does to its norms."""
    return [
        Panel(
            "layers",
            "Sparsity by layer",
            "Zeros in every weight matrix and filter bank, from input (top) to output; biases and"
            f" normalisation are in the tables below.{_extremes(_subject(arms))}"
            " As Figure 4 (right) of the paper.",
            figures.layers(arms),
        ),
        Panel(
            "norms",
            "Ratio of norms",
            "The l2 norm of all weights over their l1 norm. It cannot fall below 1/√d, dotted,"
            " which d weights of one magnitude would have, and rises as fewer weights carry more."
            f"{_above_bound(_subject(arms))} As Figure 2 of the paper.",
            figures.norm_ratio(arms),
        ),
    ]


def _thresholding(arms: Sequence[Arm]) -> list[Panel]:
    """How the threshold grew, and what it cut."""
    return [
        Panel(
            "threshold",
            "Threshold",
            "The largest threshold g; an accumulator below it in magnitude gives a weight of"
            " exactly zero. Its path follows from c, mu and the learning rate alone.",
            figures.threshold(arms),
        ),
        Panel(
            "forecast",
            "Forecast",
            "Hollow points: the final sparsity foretold after that epoch. Line: the sparsity"
            " reached. Dotted: the target, where one was set."
            f"{_foretold(_subject(arms))}",
            figures.forecasts(arms),
        ),
        Panel(
            "weights",
            "Weights",
            "Left, how many weights are exactly zero; right, the others in bins over each run's"
            " own range, zeros taken out. Counts on one logarithmic scale"
            f"{_first(arms)}.{_zeros(_subject(arms))}",
            figures.weight_histogram(arms),
        ),
        Panel(
            "accumulators",
            "Accumulators",
            "The accumulators v, from which the weights are soft-thresholded: what lies between"
            f" the dotted lines at −g and g is cut to zero. Logarithmic counts{_first(arms)}.",
            figures.accumulator_histogram(arms),
        ),
    ]


def _shows(figure: Figure) -> bool:
    return any(y is not None for trace in figure.data for y in trace.y or ())


def _subject(arms: Sequence[Arm]) -> Arm:
    """The arm that captions speak of: the first gRDA, else the first."""
    return next((arm for arm in arms if family(arm.method) == "grda"), arms[0])


def _ends(arms: Sequence[Arm], name: str) -> str:
    ends = [(arm.label, arm.final(name).mean) for arm in arms if arm.is_finished]
    known = [(label, end) for label, end in ends if end is not None]
    if not known:
        return ""
    if len(known) <= 4:
        return " At the end: " + "; ".join(f"{x} {percent(end)}" for x, end in known) + "."
    low, high = (f(known, key=lambda pair: pair[1]) for f in (min, max))
    return f" At the end, from {percent(low[1])} ({low[0]}) to {percent(high[1])} ({high[0]})."


def _extremes(arm: Arm) -> str:
    summary = arm.counted[0].summary
    shares = [
        (layer.zeros / layer.total, layer.name)
        for layer in (summary.layers or () if summary else ())
        if len(layer.shape) > 1 and layer.total
    ]
    if len(shares) < 2:
        return ""
    low, high = min(shares), max(shares)
    return (
        f" {arm.label}: least in {low[1]} ({percent(low[0])}),"
        f" most in {high[1]} ({percent(high[0])})."
    )


def _above_bound(arm: Arm) -> str:
    ratio, total = arm.final("l2_over_l1").mean, arm.runs[0].total
    return f" {arm.label} ends at {ratio * total**0.5:.1f} times it." if ratio and total else ""


def _foretold(arm: Arm) -> str:
    run = arm.counted[0]
    told = [(e.epoch, e.forecast.sparsity) for e in run.epochs if e.forecast]
    if not told or run.summary is None:
        return ""
    epoch, share = told[-1]
    return (
        f" {arm.label}: after epoch {epoch}, {percent(share)} was foretold;"
        f" the run ended at {percent(run.summary.sparsity)}."
    )


def _first(arms: Sequence[Arm]) -> str:
    return "; the first seed of each" if any(len(arm.runs) > 1 for arm in arms) else ""


def _zeros(arm: Arm) -> str:
    summary = arm.counted[0].summary
    if summary is None or summary.zeros is None or not summary.total:
        return ""
    return f" {arm.label}: {summary.zeros:,} of {summary.total:,} are zero."
