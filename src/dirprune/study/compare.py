"""Comparing methods at gRDA's sparsity, with equal epochs, initial weights and batches."""

import logging
import math
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dirprune._support.files import read_json, write_json
from dirprune._support.lock import locked
from dirprune.study.calibrate import calibrate, closest
from dirprune.study.comparison import Plan, claim_folder, method_config, rescaled, run_name
from dirprune.study.isolated import run_isolated
from dirprune.study.one_shot import has_batchnorm, prune_finished
from dirprune.study.parts import PATIENCE, Part, check_no_part_runs
from dirprune.study.tables import MethodRow, write_tables
from dirprune.threshold import threshold_path
from dirprune.train.config import TrainConfig
from dirprune.train.display import ConsoleDisplay
from dirprune.train.errors import Diverged
from dirprune.train.loop import train
from dirprune.train.names import CALIBRATED, COMPARED, DENSE, REFERENCES, TARGETED
from dirprune.train.runs import RunFolder, check_same_config
from dirprune.train.schedule import learning_rates
from dirprune.train.summary import Summary
from dirprune.train.tracking import check_tracker

_log = logging.getLogger(__name__)

TOLERANCE = 0.01
"""Largest accepted distance of a calibrated method from gRDA's sparsity."""
MOST_TRIALS = 5
"""Maximum number of runs of one calibration."""
HELD_OUT = 0.1
"""Share of the training data for choosing the rate, if the config holds out none."""


def compare(
    config: TrainConfig,
    out: str | Path,
    *,
    methods: Sequence[str] = COMPARED,
    seeds: Sequence[int] = (1, 2, 3),
    lrs: Sequence[float] | None = None,
    part: str | None = None,
    track: str | None = None,
) -> list[MethodRow]:
    """Train every method for the same epochs from the same weights on the same batches.

    - Each method's learning rate is chosen from the same grid by the final accuracy on held-out
      training data, with the first seed; a grid of one rate is not searched. Test data is not
      used for any choice.
    - ``config.c`` belongs to ``config.lr``; see :func:`dirprune.study.comparison.method_config`.
    - All sparse methods get the mean sparsity of gRDA's runs, or ``config.mask_sparsity`` without
      gRDA. For ``prox_sgd`` and ``rda``, c is calibrated with the first seed, on complete runs;
      ``gmp``, ``magnitude`` and ``random`` take the sparsity as an option.
    - ``magnitude`` prunes the finished runs of ``sgd`` and ``sgd_momentum``, with and without
      refreshed BatchNorm.

    Every run is a separate process, so that its peak memory can be measured. Finished runs are
    kept: the same call continues an interrupted comparison, bit-identically.

    Array jobs share the runs: job I of N gives ``part="I/N"`` and the same folder. Part I trains
    the seeds s of the methods m for which (m * number of seeds + s) % N = I - 1, counted from 0.
    A run may need results of other parts, such as gRDA's sparsity or a rate chosen with the first
    seed. A part leaves out such runs and says what is missing; then the same parts, or one call
    without ``part``, continue. The results do not depend on the parts.

    Args:
        config: Settings of all runs; ``momentum`` and ``weight_decay`` apply only to the methods
            named after momentum.
        out: Folder of the comparison: runs, comparison.json, comparison.csv and comparison.md.
        methods: Names in `COMPARABLE`.
        seeds: One run per method and seed.
        lrs: The grid; by default only ``config.lr``.
        part: The part to run, such as "1/4"; by default everything.
        track: As for :func:`dirprune.train.loop.train`, for every run.

    Returns:
        The table of the runs that exist.

    Raises:
        ValueError: If the folder holds something else, the plan or part is not possible, or
            torchrun started this process.
        ImportError: If the package of the tracker is missing.
        FolderInUse: If another process runs the comparison, or this part of it.
        OSError: If the folder cannot be written, or the data is missing.
        Diverged: If all of gRDA's runs diverge.
        Interrupted: If SIGINT or SIGTERM was received.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "compare was started by torchrun, but it starts one process per run itself: start it "
            "without torchrun; train accepts torchrun"
        )
    check_tracker(track)
    plan = Plan(config, tuple(methods), tuple(seeds), tuple(lrs or (config.lr,)))
    folder = Path(out)
    if part is not None:
        return _run_part(plan, folder, Part.parse(part), track)
    with locked(folder):
        check_no_part_runs(folder)
        claim_folder(folder, plan)
        _log.info(f"learning rates, for every method: {', '.join(f'{lr:g}' for lr in plan.lrs)}")
        return _Comparison(plan, folder, track=track).run()


def _run_part(plan: Plan, folder: Path, part: Part, track: str | None) -> list[MethodRow]:
    """Run a part; the folder is locked only while the part starts and writes the table."""
    with ExitStack() as running:
        with locked(folder, PATIENCE):
            running.enter_context(part.locked(folder))
            claim_folder(folder, plan)
        _Comparison(plan, folder, part.has, writes=False, track=track).run()
        with locked(folder, PATIENCE):
            claim_folder(folder, plan)  # refuses if the plan has grown since
            whole = _Comparison(plan, folder, lambda number: False)
            table = whole.run()
    if whole.missing:
        _log.info(
            f"not finished yet: {', '.join(whole.missing)}, and the runs that need their results: "
            "start the other parts, then all parts again, or the same command without --part"
        )
    return table


class _Unfinished(Exception):
    """A run belongs to another part, which has not finished it."""


class _Comparison:
    """A comparison in progress: the results so far, and the methods that complete them.

    Args:
        plan: Its plan.
        out: Its folder.
        has: Whether a run may be trained here, by the number of its method and seed.
        writes: Whether to write the results.
        track: The tracker of every run.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        has: Callable[[int], bool] = lambda number: True,
        *,
        writes: bool = True,
        track: str | None = None,
    ) -> None:
        self.plan, self.out, self.has, self.writes, self.track = plan, out, has, writes, track
        self.missing: list[str] = []
        self.grid: dict[str, dict[str, float | None]] = {}
        self.chosen: dict[str, dict[str, float]] = {}
        self.calibration: dict[str, dict[str, Any]] = {}
        self.finals: dict[str, list[TrainConfig]] = {}
        self.target = plan.config.mask_sparsity

    def run(self) -> list[MethodRow]:
        """Run everything that is missing; gRDA first, because it sets the sparsity of others."""
        plan = self.plan
        follows_reference = (*CALIBRATED, *TARGETED, "magnitude")
        for method in (m for m in plan.methods if m not in follows_reference):
            with suppress(_Unfinished):
                self._run_seeds(self._config(method, self._choose_rate(method)))
        if plan.reference:
            if any(run.startswith(f"{plan.reference}/") for run in self.missing):
                return self._write_table()
            self.target = self._attained(plan.reference)
        _log.info(f"sparsity of the other methods: {self.target:.2%} of all trainable parameters")
        for method in (m for m in plan.methods if m in CALIBRATED):
            with suppress(_Unfinished):
                self._run_calibrated(method)
        for method in (m for m in plan.methods if m in TARGETED):
            with suppress(_Unfinished):
                self._run_seeds(self._config(method, self._choose_rate(method)))
        if "magnitude" in plan.methods:
            for method in (m for m in plan.methods if m in DENSE):
                self._prune(method)
        return self._write_table()

    def _config(self, method: str, lr: float, c: float | None = None) -> TrainConfig:
        """The config of the first seed."""
        sparsity = self.target if method in TARGETED else None
        seed = self.plan.seeds[0]
        return method_config(self.plan.config, method, lr, seed=seed, c=c, sparsity=sparsity)

    def _choose_rate(self, method: str, c: Callable[[float], float] | None = None) -> float:
        """The rate with the highest accuracy on held-out data after the last epoch."""
        lrs = self.plan.lrs
        accuracies: dict[float, float | None] = dict.fromkeys(lrs)
        for lr in lrs if len(lrs) > 1 else ():
            config = self._config(method, lr, c and c(lr))
            config = replace(config, validation=config.validation or HELD_OUT)
            if self._run(config)["status"] == "finished":
                accuracies[lr] = self._folder(config).read_metrics()[-1]["validation_accuracy"]
        self.grid[method] = {f"{lr:g}": accuracy for lr, accuracy in accuracies.items()}
        # The smallest of equally good rates, also if all runs diverge.
        return max(lrs, key=lambda lr: (accuracies[lr] or 0.0, -lr))

    def _run_seeds(self, config: TrainConfig) -> list[Summary]:
        """Run all seeds of a method; these runs are in the table."""
        self.chosen[config.method] = {"lr": config.lr, "c": config.c}
        if config.method not in (*REFERENCES, *CALIBRATED):
            del self.chosen[config.method]["c"]
        summaries = []
        for seed in self.plan.seeds:
            seeded = replace(config, seed=seed)
            self.finals.setdefault(config.method, []).append(seeded)
            with suppress(_Unfinished):
                summaries.append(self._run(seeded))
        if len(summaries) < len(self.plan.seeds):
            raise _Unfinished
        return summaries

    def _attained(self, method: str) -> float:
        sparsities = [self._summary(config)["sparsity"] for config in self._finished(method)]
        if not sparsities:
            raise Diverged(
                f"every run of {method} diverged, so there is no sparsity for the other methods: "
                "compare again in another folder with a smaller lr, c or mu"
            )
        mean = round(statistics.fmean(sparsities), 4)
        if not 0 < mean < 1:
            raise ValueError(
                f"{method} ended with {mean:.2%} zeros, but a comparison needs a share between 0 "
                "and 100 %: give another c"
            )
        return mean

    def _run_calibrated(self, method: str) -> None:
        """Calibrate, choose the rate, and calibrate again if the rate has changed."""
        plan = self.plan
        first = min(plan.lrs, key=lambda lr: abs(math.log(lr / plan.config.lr)))
        at_first = self._calibrate(method, first, self._start(method, first))
        power = 1.5 if method == "rda" else 1.0
        lr = self._choose_rate(method, lambda lr: rescaled(at_first, power, first, lr))
        c = at_first
        if lr != first:
            c = self._calibrate(method, lr, rescaled(at_first, power, first, lr))
        attained = [s["sparsity"] for s in self._run_seeds(self._config(method, lr, c))]
        misses = [s is None or abs(s - self.target) > TOLERANCE for s in attained]
        self.calibration[method] |= {"attained": attained, "reached": not any(misses)}
        if any(misses):
            _log.info(
                f"{method}: {sum(misses)} of {len(misses)} runs miss the sparsity by > 1 point"
            )

    def _start(self, method: str, lr: float) -> float:
        """A first guess: the same total shrinkage over the run as gRDA, or twice as much.

        Proximal SGD needs twice as much, because it has no accumulator for weights at zero.
        """
        plan = self.plan
        if not plan.reference:
            return plan.config.c
        run = self._finished(plan.reference)[0]
        steps_per_epoch = self._folder(run).read_metrics()[-1]["step"] // run.epochs
        lrs = learning_rates(self._config(method, lr), steps_per_epoch)
        shrinkage = float(threshold_path(1.0, 1.0, lrs)[-1]) if method == "rda" else sum(lrs) / 2
        return float(self._summary(run)["threshold"]) / shrinkage

    def _calibrate(self, method: str, lr: float, start: float) -> float:
        def sparsity_at(c: float) -> float:
            summary = self._run(self._config(method, lr, c))
            return summary["sparsity"] if summary["status"] == "finished" else math.inf

        trials = calibrate(sparsity_at, start, self.target, tolerance=TOLERANCE, most=MOST_TRIALS)
        c, _ = closest(trials, self.target)
        tried = [{"c": c, "sparsity": s if s < math.inf else None} for c, s in trials]
        self.calibration[method] = {"target": self.target, "lr": lr, "c": c, "tried": tried}
        return c

    def _prune(self, dense: str) -> None:
        """Evaluate one-shot magnitude pruning of a dense method's finished runs."""
        runs = self._finished(dense)
        normalised = any(has_batchnorm(self._folder(run).weights) for run in runs)
        for refresh in (False, True) if normalised else (False,):
            name = dense.replace("sgd", "magnitude") + "_refreshed" * refresh
            for run in runs:
                config = replace(run, method=name, sparsity=self.target, refresh_batchnorm=refresh)
                self.finals.setdefault(name, []).append(config)
                with suppress(_Unfinished):
                    self._do(config, prune_finished, self._folder(run).path, run)

    def _finished(self, method: str) -> list[TrainConfig]:
        over = [c for c in self.finals.get(method, ()) if self._folder(c).is_over()]
        return [c for c in over if self._summary(c)["status"] == "finished"]

    def _run(self, config: TrainConfig) -> Summary:
        return self._do(config, partial(train_or_resume, track=self.track))

    def _do(self, config: TrainConfig, call: Callable[..., object], *before: Any) -> Summary:
        """Run a config unless it has already finished or diverged, and return its summary."""
        folder = self._folder(config)
        if not folder.is_over():
            name = run_name(config, self.plan)
            if not self.has(self.plan.number(config)):
                self.missing.append(name)
                raise _Unfinished
            _log.info(f"-- {name}")
            run_isolated(call, *before, folder.path, config, out=self.out)
            self._write()
        return self._summary(config)

    def _folder(self, config: TrainConfig) -> RunFolder:
        return RunFolder(self.out / run_name(config, self.plan))

    def _summary(self, config: TrainConfig) -> Summary:
        folder = self._folder(config)
        check_same_config(read_json(folder.config)["config"], config, str(folder.path))
        return read_json(folder.summary)

    def _write(self) -> None:
        if not self.writes:
            return
        order = {method: i for i, method in enumerate(self.plan.methods)}
        methods = sorted(self.finals, key=lambda m: order.get(m, order.get("magnitude", 0)))
        runs = [config for method in methods for config in self.finals[method]]
        record = {
            "plan": self.plan.as_json(),
            "sparsity": self.target,
            "lr_grid": self.grid,
            "chosen": self.chosen,
            "calibration": self.calibration,
            "runs": [run_name(c, self.plan) for c in runs if self._folder(c).is_over()],
            "missing": self.missing,
        }
        write_json(self.out / "comparison.json", record)

    def _write_table(self) -> list[MethodRow]:
        self._write()
        return write_tables(self.out, read_json(self.out / "comparison.json")["runs"])


def train_or_resume(out: Path, config: TrainConfig, track: str | None = None) -> None:
    """Train in a folder; resume if it holds a run."""
    resume = RunFolder(out).config.exists()
    train(config, out, resume=resume, display=ConsoleDisplay(), track=track)
