"""Train the grid of PROTOCOL.md: first the settings, then the seeds; one CSV row per run.

    OMP_NUM_THREADS=1 python results/structures/measure.py --minutes 60

Runs that are in runs.csv are not repeated, so that the command continues after a stop. Needs
Torch-Pruning. Each run uses one thread.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import mean

import torch
from network import multiply_adds, narrow_widths, residual_network
from torch import nn
from training import (
    train_channels,
    train_dense,
    train_one_shot,
    train_sr_ste,
    train_torch_pruning,
    train_two_four,
    two_four_parameters,
)

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "benchmarks"))
from problems import Problem, fashion  # noqa: E402 - the data and batches of the other comparison

import rows  # noqa: E402

EPOCHS = 4
RATES = (0.1, 0.3)
TARGETS = (0.5, 0.25)
FINAL_SEEDS = (1, 2, 3)
CHANNELS = ("narrow", "magnitude", "group norm", "grda p=1", "grda p=2")
BY_COSTS = ("grda costs p=1", "grda costs p=2")
TWO_FOUR = ("2:4 one-shot", "2:4 sr-ste", "2:4 grda p=1", "2:4 grda p=2")
TWO_PHASES = ("magnitude", "group norm", "2:4 one-shot")
TRIALS = 4
"""Runs to find the sparsity of a channels plan for entries."""


@dataclass(frozen=True)
class Job:
    """One training run; ``target`` is a share of multiply-adds, 1 where all are computed."""

    method: str
    target: float
    lr: float
    schedule: str
    sparsity: float
    seed: int


@dataclass(frozen=True)
class Result(Job):
    """A run and its results."""

    macs: float
    """Multiply-adds as a share of the dense network's."""
    zeros: float
    """Share of zeros in the weights of the evaluated network that can be 2:4 sparse."""
    parameters: int
    validation: float
    test: float
    seconds: float


def trained(job: Job, problem: Problem) -> nn.Module:
    """Train one network and return the one that is evaluated."""
    widths = narrow_widths(job.target) if job.method == "narrow" else None
    torch.manual_seed(job.seed)
    model = residual_network() if widths is None else residual_network(widths)
    steps, batches = problem.steps, problem.batches(job.seed)
    if job.method in ("dense", "narrow"):
        return train_dense(model, job.lr, batches, steps, job.schedule)
    if job.method.startswith("grda"):
        power = float(job.method.split("=")[1])
        by_costs = job.method in BY_COSTS
        return train_channels(model, job.lr, batches, steps, power, job.sparsity, by_costs)
    if job.method.startswith("2:4 grda"):
        return train_two_four(model, job.lr, batches, steps, float(job.method.split("=")[1]))
    if job.method == "2:4 one-shot":
        return train_one_shot(model, job.lr, batches, steps, job.schedule)
    if job.method == "2:4 sr-ste":
        return train_sr_ste(model, job.lr, batches, steps)
    sparse_training = job.method == "group norm"
    return train_torch_pruning(
        model, job.lr, batches, steps, job.schedule, job.target, sparse_training
    )


def run(job: Job, networks: Path | None, epochs: int = EPOCHS) -> Result:
    """Train and evaluate once, on one thread; the network of seed 1 is saved."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    problem = fashion(epochs, residual_network)
    model = trained(job, problem).eval()
    weights = [w for _, w in two_four_parameters(model)]
    result = Result(
        **asdict(job),
        macs=round(multiply_adds(model) / multiply_adds(residual_network()), 4),
        zeros=round(
            sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights)), 4
        ),
        parameters=sum(p.numel() for p in model.parameters()),
        validation=problem.evaluate(model, "validation"),
        test=problem.evaluate(model, "test"),
        seconds=round(time.monotonic() - begun, 1),
    )
    if networks is not None and job.seed == 1:
        networks.mkdir(parents=True, exist_ok=True)
        name = f"{job.method} {job.target:g}".replace(" ", "-").replace(":", "")
        torch.save(model, networks / f"{name}.pt")
    return result


def read(path: Path) -> dict[Job, Result]:
    """Read the runs of a CSV file."""
    return {Job(*astuple(row)[: len(fields(Job))]): row for row in rows.read(path, Result)}


def trials(done: dict[Job, Result], method: str, target: float, lr: float) -> list[Result]:
    """The runs at seed 0 that look for the sparsity of a plan."""
    setting = (method, target, lr, 0)
    return [r for j, r in done.items() if (j.method, j.target, j.lr, j.seed) == setting]


def calibrated(
    done: dict[Job, Result], method: str, target: float, lr: float
) -> tuple[float, bool]:
    """The sparsity of a channels plan for a target, and whether the search for it is over."""
    tried = trials(done, method, target, lr)
    low, high = target - 0.03, target + 0.01
    if tried:
        best = min(tried, key=lambda r: abs(r.macs - (low + high) / 2))
        if low <= best.macs <= high or len(tried) >= TRIALS:
            return best.sparsity, True
    relatives = [r for r in done.values() if r.method in CHANNELS and r.sparsity and not r.seed]
    points = [(r.sparsity, r.macs) for r in tried or relatives]
    goal = (low + high) / 2
    left = max([(s, m) for s, m in points if m > goal] + [(0.0, 1.0)])
    right = min([(s, m) for s, m in points if m <= goal and s > left[0]] + [(1.0, 0.0)])
    share = (left[1] - goal) / (left[1] - right[1])
    return round(left[0] + share * (right[0] - left[0]), 3), False


def settings(done: dict[Job, Result], method: str, target: float) -> Iterator[tuple[Job, bool]]:
    """The settings of a method at seed 0, and whether their sparsity is known."""
    for lr in RATES:
        for schedule in ("one", "two") if method in TWO_PHASES else ("one",):
            sparsity, known = 0.0, True
            if method.startswith("2:4"):
                sparsity = 0.5
            elif method in BY_COSTS:
                sparsity = 1 - target
            elif method.startswith("grda"):
                sparsity, known = calibrated(done, method, target, lr)
            yield Job(method, target, lr, schedule, sparsity, 0), known


def chosen(done: dict[Job, Result], method: str, target: float) -> Job | None:
    """The setting with the best validation accuracy; None until all are measured."""
    jobs = list(settings(done, method, target))
    if any(not known or job not in done for job, known in jobs):
        return None
    return max((job for job, _ in jobs), key=lambda job: done[job].validation)


def at_seed(job: Job, seed: int) -> Job:
    """The same job with another seed."""
    return Job(*astuple(job)[:-1], seed)


def cells() -> list[list[tuple[str, float]]]:
    """Methods and targets, in groups that are measured together, the most important first."""
    *others, soft = [method for method in CHANNELS if method != "grda p=2"]
    first, *later = TARGETS
    return [
        [("dense", 1.0), *((method, first) for method in (*others, "grda p=2"))],
        [(method, 1.0) for method in TWO_FOUR],
        [(soft, first)],
        *([(method, target) for method in CHANNELS] for target in later),
        [(method, target) for target in TARGETS for method in BY_COSTS],
    ]


def next_job(done: dict[Job, Result]) -> Job | None:
    """The next missing run: all settings of a group of methods, then their seeds."""
    for group in cells():
        for method, target in group:
            for job, _ in settings(done, method, target):
                if job not in done:
                    return job
        for seed in FINAL_SEEDS:
            for method, target in group:
                best = chosen(done, method, target)
                if best is not None and at_seed(best, seed) not in done:
                    return at_seed(best, seed)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=HERE / "runs.csv")
    parser.add_argument("--networks", type=Path, help="folder for the networks of seed 1")
    args = parser.parse_args()
    done = read(args.out)
    deadline = time.monotonic() + 60 * args.minutes
    while (job := next_job(done)) is not None:
        expected = mean(r.seconds for r in done.values()) if done else 60.0
        if time.monotonic() + expected > deadline:
            break
        result = run(job, args.networks)
        done[job] = result
        rows.append(args.out, asdict(result))
        print(result, flush=True)


if __name__ == "__main__":
    main()
