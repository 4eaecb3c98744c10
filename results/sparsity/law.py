"""Train with the paper's law of the threshold to the sparsity of a plan, by searching its scale c.

    python results/sparsity/law.py [--problems characters-clipped fashion-cnn]

Every run is a row of law.csv; runs that are there are not repeated.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from measure import FINAL_SEEDS, RATES, Job, train
from methods import SGD_OPTIONS, groups
from problems import PROBLEMS
from torch import nn
from torch.optim import Optimizer

import rows  # in benchmarks/, which measure adds to the path
from dirprune import GRDA, AdamGRDA

OUT = Path(__file__).with_name("law.csv")
TARGETS = {"characters-clipped": 0.9, "fashion-cnn": 0.95}
TOLERANCE = 0.005
MOST_RUNS = 6


@dataclass(frozen=True)
class Run:
    """One run and its results; NaN if training diverged."""

    problem: str
    lr: float
    c: float
    seed: int
    zeros: float
    validation: float
    test: float
    seconds: float


def run(problem: str, lr: float, c: float, seed: int, done: list[Run]) -> Run:
    """Train once with the law, or find the run among those that are done."""
    for old in done:
        if (old.problem, old.lr, old.seed) == (problem, lr, seed) and math.isclose(old.c, c):
            return old

    def make(model: nn.Module, lr: float, *_: object) -> Optimizer:
        planned, dense = groups(model, c=0.0)
        if problem == "fashion-cnn":
            return GRDA([planned, dense], lr=lr, c=c, **SGD_OPTIONS)
        return AdamGRDA([planned, dense], lr=lr, c=c, power=1.0, weight_decay=0.01)

    result = train(Job(problem, "law", TARGETS[problem], lr, seed), make)
    new = Run(problem, lr, c, seed, result.zeros, result.validation, result.test, result.seconds)
    rows.append(OUT, asdict(new))
    done.append(new)
    print(new, flush=True)
    return new


def search(problem: str, lr: float, c: float, done: list[Run]) -> Run:
    """Search c by the secant of the log odds of a zero against log c, for the seed 0."""

    def excess(zeros: float) -> float:
        odds = [share / (1 - share) for share in (min(max(zeros, 1e-3), 0.999), TARGETS[problem])]
        return math.log(odds[0] / odds[1])

    slope = 1.5  # until two runs tell it
    found: list[Run] = []
    for _ in range(MOST_RUNS):
        found.append(run(problem, lr, c, 0, done))
        last = found[-1]
        if math.isnan(last.zeros) or abs(last.zeros - TARGETS[problem]) <= TOLERANCE:
            break
        if len(found) > 1 and last.c != found[-2].c:
            change = excess(last.zeros) - excess(found[-2].zeros)
            slope = max(0.3, change / math.log(last.c / found[-2].c))
        c = float(f"{last.c * math.exp(max(-2, min(2, -excess(last.zeros) / slope))):.4g}")
    return min(found, key=lambda r: (math.isnan(r.zeros), abs(r.zeros - TARGETS[problem])))


def runs(problem: str, done: list[Run]) -> Iterator[Run]:
    """The runs of the best rate with the seeds of the protocol."""
    c, found = 1e-2, []
    for lr in RATES[problem]:
        found.append(search(problem, lr, c, done))
        c = found[-1].c
    sign = 1 if PROBLEMS[problem]().lower_is_better else -1
    close = [r for r in found if abs(r.zeros - TARGETS[problem]) <= TOLERANCE]
    if not close:
        shares = ", ".join(f"{r.zeros:.2%} at {r.lr}" for r in found)
        raise SystemExit(
            f"{problem}: no rate came close to {TARGETS[problem]:.0%} zeros: {shares}"
        )
    best = min(close, key=lambda r: sign * r.validation)
    for seed in FINAL_SEEDS:
        yield run(problem, best.lr, best.c, seed, done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", nargs="+", choices=TARGETS, default=list(TARGETS))
    for problem in parser.parse_args().problems:
        final = list(runs(problem, rows.read(OUT, Run)))
        figures = [r.test for r in final]
        zeros = ", ".join(f"{r.zeros:.2%}" for r in final)
        print(f"{problem}: {mean(figures):.3f} ± {stdev(figures):.3f} @ {final[0].lr}, "
              f"c = {final[0].c}, zeros {zeros}")  # fmt: skip


if __name__ == "__main__":
    main()
