"""Does re-estimating BatchNorm's statistics after training change the accuracy of sparse networks?

    python results/sparsity/refresh.py

The networks of `fashion-cnn` at 95 % zeros, each method at its best rate. Every network is a row
of refresh.csv; rows that are there are not measured again.
"""

import copy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from measure import FINAL_SEEDS, HERE, Job, best_rate, read, rows, trained
from methods import SGD
from problems import PROBLEMS

from dirprune import refresh_batchnorm

OUT = Path(__file__).with_name("refresh.csv")
PROBLEM, SPARSITY = "fashion-cnn", 0.95
METHODS = ("grda p=2", "hard", "gmp")


@dataclass(frozen=True)
class Row:
    """Test accuracies of a network, in %."""

    method: str
    seed: int
    before: float
    after: float


def main() -> None:
    """Train and measure what is missing."""
    known = {(row.method, row.seed) for row in rows.read(OUT, Row)}
    done = read(HERE / "runs.csv")
    problem = PROBLEMS[PROBLEM]()
    for seed in FINAL_SEEDS:
        for method in METHODS:
            lr = best_rate(done, PROBLEM, method, SPARSITY)
            if (method, seed) in known or lr is None:
                continue
            model = trained(Job(PROBLEM, method, SPARSITY, lr, seed), SGD[method])
            if model is None:
                raise SystemExit(f"{method}, seed {seed}: training diverged")
            refreshed = copy.deepcopy(model)
            epoch = islice(problem.batches(seed), problem.steps // 4)  # one of four epochs
            refresh_batchnorm(refreshed, (x for x, _ in epoch))
            row = Row(method, seed, problem.evaluate(model, "test"),
                      problem.evaluate(refreshed.eval(), "test"))  # fmt: skip
            rows.append(OUT, asdict(row))
            print(row, flush=True)


if __name__ == "__main__":
    main()
