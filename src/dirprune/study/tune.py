"""The authors' rule for c: the largest c that keeps the accuracy of the first few epochs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from dirprune._support.files import write_json
from dirprune._support.lock import locked
from dirprune.train.config import MOST_EPOCHS, TrainConfig
from dirprune.train.display import Display
from dirprune.train.errors import Diverged, part_of
from dirprune.train.loop import train
from dirprune.train.methods import PLANNED
from dirprune.train.runs import RunFolder, check_contents

HELD_OUT = 0.1
"""Share of the training data for choosing, if the config holds out none."""


@dataclass(frozen=True)
class Trial:
    """The result of a short run.

    Attributes:
        mu: Growth exponent.
        c: Scale of the threshold; 0 is SGD.
        validation_accuracy: Accuracy after the last epoch; 0 if training diverged.
        sparsity: Share of zeros among all trainable parameters after the last epoch.
        diverged: Whether training diverged.
    """

    mu: float
    c: float
    validation_accuracy: float
    sparsity: float
    diverged: bool = False


@dataclass(frozen=True)
class TuneResult:
    """The trials of a tuning and the choice.

    Attributes:
        reference: The trial with c = 0.
        trials: All other trials, in the order in which they were run.
        chosen: The chosen trial.
        config: The config for training, with the chosen c and mu.
    """

    reference: Trial
    trials: tuple[Trial, ...]
    chosen: Trial
    config: TrainConfig


def tune(
    config: TrainConfig,
    out: str | Path,
    *,
    mus: Sequence[float] = (0.501, 0.51, 0.55),
    cs: Sequence[float] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    epochs: int = 3,
    tolerance: float = 0.01,
    display: Display | None = None,
) -> TuneResult:
    """Choose c and mu: for every mu the largest c that keeps accuracy, and the sparsest of these.

    Accuracy is measured on held-out training data; test data is not used. For each mu, c is
    decreased along the grid until it keeps the accuracy. Trials that are already in ``out`` are
    not repeated.

    Args:
        config: Config of the final run, whose c and mu are to be chosen. The trials use its
            learning rate as a constant, like the paper's schedules in their first epochs.
        out: Folder of tune.json and of the trials, one run folder each.
        mus: Values of mu to try, each in (0, 1]; by default those that the paper recommends.
        cs: Values of c to try, each above 0.
        epochs: Epochs of every trial, at least 1; the paper recommends 1 to 5.
        tolerance: Largest accepted loss of validation accuracy compared with c = 0, as a share.
        display: Where the trials' progress is shown; by default in the log.

    Returns:
        The trials and the chosen config.

    Raises:
        ValueError: If a grid is empty or out of its range, or no c keeps the accuracy.
        Stopped: If SIGINT or SIGTERM was received; the same call continues.
        OSError: If the data is missing or ``out`` cannot be written.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), the advice in the
        authors' README; https://arxiv.org/abs/2006.09358
    """
    if config.method not in PLANNED:
        raise ValueError(
            f"tune chooses gRDA's c and mu, got method {config.method!r}: use one of "
            f"{', '.join(PLANNED)}"
        )
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance must be in [0, 1], as a share of accuracy, got {tolerance}")
    if not mus or not cs or min(cs) <= 0:
        raise ValueError(f"tune needs at least one mu and one c, all above 0, got {mus} and {cs}")
    out = Path(out)
    check_contents(out, own="tune.json")
    if not 1 <= epochs <= MOST_EPOCHS:
        raise ValueError(
            f"the epochs of a trial (--tune-epochs) must be in [1, {MOST_EPOCHS}], got {epochs}"
        )
    base = _trial_config(config, epochs)
    for mu, c in product(mus, cs):
        replace(base, mu=mu, c=c)  # checks the ranges before anything is trained
    with locked(out), part_of(out):
        result = _search(base, config, out, mus, cs, tolerance, display)
        write_json(out / "tune.json", asdict(result) | {"tolerance": tolerance})
    return result


def _search(
    base: TrainConfig,
    config: TrainConfig,
    out: Path,
    mus: Sequence[float],
    cs: Sequence[float],
    tolerance: float,
    display: Display | None,
) -> TuneResult:
    reference = _run(replace(base, c=0.0, mu=mus[0]), out / "reference", display)
    trials: list[Trial] = []
    for mu in mus:
        for c in sorted(cs, reverse=True):
            trial = _run(replace(base, mu=mu, c=c), out / f"mu{mu:g}-c{c:g}", display)
            trials.append(trial)
            if keeps_accuracy(trial, reference, tolerance):
                break
    chosen = choose(trials, reference, tolerance)
    config = replace(config, mu=chosen.mu, c=chosen.c)
    return TuneResult(reference, tuple(trials), chosen, config)


def choose(trials: Sequence[Trial], reference: Trial, tolerance: float) -> Trial:
    """Choose the largest c that keeps accuracy for every mu, and the sparsest of these.

    Returns:
        The chosen trial; among equally sparse trials, the most accurate one.

    Raises:
        ValueError: If no trial keeps the accuracy.

    Example:
        >>> table = [Trial(0.51, 0.01, 0.8, 0.5), Trial(0.51, 0.005, 0.9, 0.3)]
        >>> choose(table, Trial(0.51, 0.0, 0.9, 0.0), tolerance=0.01).c
        0.005
    """
    largest: dict[float, Trial] = {}
    for trial in trials:
        good = keeps_accuracy(trial, reference, tolerance)
        if good and (trial.mu not in largest or trial.c > largest[trial.mu].c):
            largest[trial.mu] = trial
    if not largest:
        best = max(trial.validation_accuracy for trial in trials)
        raise ValueError(
            f"no c keeps the validation accuracy within {tolerance:.2%} of "
            f"{reference.validation_accuracy:.2%} (best: {best:.2%}): give smaller "
            "cs, more epochs or a larger tolerance"
        )
    return max(largest.values(), key=lambda trial: (trial.sparsity, trial.validation_accuracy))


def keeps_accuracy(trial: Trial, reference: Trial, tolerance: float) -> bool:
    """Return whether a trial loses at most ``tolerance`` of validation accuracy."""
    return trial.validation_accuracy >= reference.validation_accuracy - tolerance


def _trial_config(config: TrainConfig, epochs: int) -> TrainConfig:
    return replace(
        config,
        epochs=epochs,
        schedule="constant",
        validation=config.validation or HELD_OUT,
        target_sparsity=None,
        keep_checkpoints=1,
    )


def _run(config: TrainConfig, out: Path, display: Display | None) -> Trial:
    """Train, resume or only read a trial."""
    folder = RunFolder(out)
    started = folder.config.exists()
    diverged = Trial(config.mu, config.c, 0.0, 0.0, diverged=True)
    if started and (folder.read_summary() or {}).get("status") == "diverged":
        return diverged
    try:
        summary = train(config, out, resume=started, display=display)
    except Diverged:
        return diverged
    accuracy = folder.read_metrics()[-1]["validation_accuracy"]
    return Trial(config.mu, config.c, accuracy, summary["sparsity"])
