"""Distance between gRDA and directional pruning in linear models, for each seed.

python results/theorem/linear.py
"""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import torch

from dirprune import soft_threshold
from dirprune._support.environment import environment

HERE = Path(__file__).parent
PAGE = runpy.run_path(str(HERE.parents[1] / "docs" / "gallery" / "theorem.py"))
SEEDS = 12
RATES = (0.01, 0.005, 0.0025, 0.001)
RUNS = [
    # logistic, separated, time, rate
    *((False, False, 60.0, rate) for rate in RATES),
    *((False, True, 15.0, rate) for rate in RATES),
    *((True, True, 15.0, rate) for rate in RATES),
    *((True, False, 15.0, rate) for rate in RATES),
    *((False, True, time, 0.02) for time in (7.5, 15.0, 30.0, 60.0, 120.0)),
]


def measure(logistic: bool, separated: bool, time: float, rate: float) -> list[dict[str, Any]]:
    """Run all seeds together; return one row per seed."""
    ends = PAGE["run"](PAGE["problem"](separated, logistic, SEEDS), rate, time)
    pruned = ends.pruned()
    flipped = ends.sgd * ends.problem.start < 0
    near = ends.sgd.abs() <= ends.lam
    step = ends.grda - ends.sgd
    figures = {
        "to_directional": ends.distances(pruned),
        "to_soft_threshold": ends.distances(soft_threshold(ends.sgd, ends.lam)),
        "to_linearised": ends.distances(ends.linearised),
        "to_valley_minimum": ends.distances(PAGE["valley_minimum"](ends)),
        "flipped": flipped.double().mean(1),
        "error_of_flipped": ends.distances(pruned, flipped),
        "within_lam_of_zero": near.double().sum(1),
        "zeros": (ends.grda == 0).double().sum(1),
        "flat_share": ends.problem.flat(step).norm(dim=1) / step.norm(dim=1),
    }
    rows: list[dict[str, Any]] = []
    for seed in range(SEEDS):
        head = {
            "model": "logistic" if logistic else "least squares",
            "separated": separated,
            "time": time,
            "rate": rate,
            "lam": f"{ends.lam:.6f}",
            "seed": seed,
        }
        rows.append(head | {name: f"{float(v[seed]):.6g}" for name, v in figures.items()})
    summary = {k: float(v.square().mean().sqrt()) for k, v in figures.items() if k[:3] == "to_"}
    print(rows[0]["model"], "separated" if separated else "random", time, rate, end=" ")
    print("  ".join(f"{name}={value:.4f}" for name, value in summary.items()), flush=True)
    return rows


def main() -> None:
    """Measure everything and write linear.csv and environment.json."""
    torch.set_num_threads(1)
    rows = []
    for run in RUNS:
        rows += measure(*run)
    with (HERE / "linear.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    known = environment("cpu")
    kept = {key: known[key] for key in ("versions", "commit", "hardware", "started")}
    (HERE / "environment.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
