"""The first sentences of a page: what the main arm reaches, and what its zeros are worth."""

from collections.abc import Sequence

from dirprune.report.runs.arms import Arm, baseline, subject
from dirprune.report.runs.results import file_size, latency, points_above, seeds_text
from dirprune.report.shared.numbers import fixed, percent, times


def lead(arms: Sequence[Arm]) -> list[str]:
    """Return the verdict on the main arm or, if it has no finished run, its state."""
    arm = subject(arms)
    if not arm.is_finished:
        return [f"{arm.label}: seeds {seeds_text(arm)}."]
    sentences = [_accuracy(arm, baseline(arm, arms)), *_gains(arm)]
    if len(arm.counted) < len(arm.runs):
        sentences.append(f"Seeds: {seeds_text(arm)}.")
    return sentences


def _accuracy(arm: Arm, dense: Arm | None) -> str:
    """The accuracy against the dense arm or, without one, the accuracy itself."""
    zeros, points = percent(arm.final("sparsity").mean), points_above(arm, dense)
    if dense is None or points is None:
        accuracy = percent(arm.final("test_accuracy").mean)
        return f"{arm.label} reaches {accuracy} test accuracy at {zeros} zeros."
    if not round(points, 2):
        return (
            f"{arm.label} is as accurate as {dense.label} at {zeros} zeros{_spread(arm, dense)}."
        )
    side = "above" if points > 0 else "below"
    text = f"{arm.label} is {abs(points):.2f} points {side} {dense.label}{_images(arm, points)}"
    return f"{text} at {zeros} zeros{_spread(arm, dense)}."


def _images(arm: Arm, points: float) -> str:
    """The difference as a number of test images, where it is one."""
    summary = arm.counted[0].summary
    total = summary.test_images if summary else None
    if not total or len(arm.counted) > 1:
        return ""
    return f" ({round(abs(points) * total / 100):,} of {total:,} test images)"


def _spread(arm: Arm, dense: Arm) -> str:
    """The number of seeds and the standard deviations, where both arms have several seeds."""
    ours, theirs = (a.final("test_accuracy") for a in (arm, dense))
    if ours.std is None or theirs.std is None:
        return ""
    stds = f"{fixed(100 * ours.std, 2)} and {fixed(100 * theirs.std, 2)}"
    seeds = f"{ours.n}" if ours.n == theirs.n else f"{ours.n} and {theirs.n}"
    return f" (means over {seeds} seeds, standard deviations {stds})"


def _gains(arm: Arm) -> list[str]:
    """File size and latency of the exported network."""
    is_exported = any(run.summary and run.summary.deploy for run in arm.counted)
    _, ratio = file_size(arm)
    if not is_exported or not ratio:
        return []
    text = f"The file is {times(ratio).rstrip('×')} times smaller than the dense weights"
    _, other, slower = latency(arm) or (None, "", None)
    if not slower:
        return [f"{text}."]
    if slower >= 1:
        return [f"{text}; one image is {times(slower).rstrip('×')} times as fast as in {other}."]
    return [
        f"{text}; one image takes {times(1 / slower).rstrip('×')} times as long as in {other}."
    ]
