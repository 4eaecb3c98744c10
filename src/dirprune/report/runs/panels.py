"""The figures of a page in order, with captions and references to the paper's figures."""

from collections.abc import Sequence

from plotly.graph_objects import Figure  # type: ignore[attr-defined]  # plotly loads it lazily

from dirprune.report.runs import figures, histograms
from dirprune.report.runs.arms import Arm, task
from dirprune.report.shared.page import Panel
from dirprune.report.shared.published import published


def panels(arms: Sequence[Arm]) -> list[Panel]:
    """Return every figure that has data."""
    trajectories = "Figures 3 and 8 to 10"
    made = [
        *_outcome(arms),
        Panel(
            "accuracy",
            "Test accuracy",
            "Test accuracy after every epoch: the mean over seeds, single seeds thin.",
            figures.trajectory(arms, "test_accuracy", "test accuracy, %", 100),
            trajectories,
        ),
        Panel(
            "sparsity",
            "Sparsity",
            "Exact zeros among all trainable parameters after every epoch.",
            figures.trajectory(arms, "sparsity", "sparsity, %", 100),
            trajectories,
        ),
        Panel(
            "loss",
            "Training loss",
            "Mean training loss of every epoch, on a logarithmic scale. Gaps: the loss is not"
            " finite.",
            figures.loss(arms),
            trajectories,
        ),
        Panel(
            "layers",
            "Sparsity by layer",
            "Zeros in every weight matrix and kernel, from input (top) to output. Biases and"
            " normalisation layers are in the tables below.",
            figures.layers(arms),
            "Figure 4 (right)",
        ),
        Panel(
            "norms",
            "Ratio of norms",
            "The l2 norm of all weights divided by their l1 norm. It equals its lower bound 1/√d"
            " (dotted) for d weights of equal magnitude, and grows as weights become sparse.",
            figures.norm_ratio(arms),
            "Figure 2",
        ),
        Panel(
            "threshold",
            "Threshold",
            "The largest threshold g. A weight is exactly zero if the magnitude of its accumulator"
            " is below g.",
            figures.threshold(arms),
        ),
        Panel(
            "weights",
            "Weights",
            "The first seed of each setting. Left: the number of weights that are exactly zero."
            " Right: histogram of the other weights. Both have the same logarithmic scale.",
            histograms.weight_histogram(arms),
        ),
        Panel(
            "accumulators",
            "Accumulators",
            "The first seed of each setting. The weights are the soft-thresholded accumulators v:"
            " accumulators between the dotted lines at −g and g give zero weights.",
            histograms.accumulator_histogram(arms),
        ),
    ]
    return [panel for panel in made if _has_points(panel.figure)]


def _outcome(arms: Sequence[Arm]) -> list[Panel]:
    """Accuracy against sparsity, if there are several arms or published results."""
    is_one_task = len({task(arm.config) for arm in arms}) == 1
    paper = published(arms[0].config) if is_one_task else None
    if len(arms) == 1 and paper is None:
        return []
    caption = (
        "The result of every finished setting. The horizontal axis is logarithmic in the share of"
        " nonzero weights. Bars: one standard deviation over seeds."
    )
    if paper:
        caption += f" Hollow points: the paper's results. {paper.note}"
    figure = figures.accuracy_against_sparsity(arms, paper)
    reference = "Figures 4 (left) and 7"
    return [Panel("outcome", "Accuracy against sparsity", caption, figure, reference)]


def _has_points(figure: Figure) -> bool:
    return any(y is not None for trace in figure.data for y in trace.y or ())
