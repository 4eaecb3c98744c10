"""Search for the learning rate and the plan's end with Optuna, at 90 % zeros.

    pip install "dirprune[tuning]"
    python examples/optuna_search.py --out runs/search --trials 20

Every trial is an ordinary run folder. Trials that are worse than the median are stopped early. The
search is kept in OUT/search.log: the same command continues it, and several processes, for
example the jobs of an array on a shared file system, share it. The accuracy is that of held-out
training images, so the test images stay untouched.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage

from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Diverged
from dirprune.train.loop import train

BASE = TrainConfig(method="grda_momentum", momentum=0.9, target_sparsity=0.9, validation=0.1)


class Reporter(Displays):
    """Reports every epoch to Optuna, and ends a trial that is not worth its time."""

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.trial, self.accuracy = trial, 0.0

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Report the accuracy on held-out images."""
        self.accuracy = record["validation_accuracy"]
        self.trial.report(self.accuracy, record["epoch"])
        if self.trial.should_prune():
            raise optuna.TrialPruned


def objective(trial: optuna.Trial, out: Path, epochs: int) -> float:
    """Train once; return the final accuracy on held-out images."""
    lr, end = trial.suggest_float("lr", 0.01, 0.3, log=True), trial.suggest_float("end", 0.4, 0.9)
    config = replace(BASE, epochs=epochs, lr=lr, plan_end=end)
    reporter = Reporter(trial)
    try:
        train(config, out / f"trial-{trial.number}", display=reporter)
    except Diverged as error:
        raise optuna.TrialPruned(str(error)) from error
    return reporter.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--trials", type=int, default=20, help="of all processes together")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="dirprune",
        storage=JournalStorage(JournalFileBackend(str(options.out / "search.log"))),
        sampler=optuna.samplers.TPESampler(),
        direction="maximize",
        load_if_exists=True,
    )
    enough = optuna.study.MaxTrialsCallback(options.trials, states=None)
    study.optimize(lambda trial: objective(trial, options.out, options.epochs), callbacks=[enough])
    best = study.best_trial
    print(f"trial {best.number}: {best.value:.2%} with {best.params}")


if __name__ == "__main__":
    main()
