"""Forecast against outcome: four networks, three targets, and what each early epoch foretold.

    python results/forecast/measure.py [FOLDER]

Runs that are in FOLDER (runs/forecast by default) already are not repeated.
"""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dirprune._support.environment import environment
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.loop import train

HERE = Path(__file__).parent
# The rule was settled with seed 1 and without BatchNorm.
DIGITS = TrainConfig(device="cpu", seed=2)
FASHION = replace(DIGITS, data="fashion-mnist", model="mlp", width=0.25, batch_size=128, epochs=12)
NETWORKS = {
    "digits mlp": replace(DIGITS, model="mlp"),
    "digits convnet": DIGITS,
    "digits resnet20": replace(DIGITS, model="resnet20", width=0.5, epochs=30),
    "fashion-mnist mlp": FASHION,
}
TARGETS = (None, 0.8, 0.9, 0.95)
"""None: c is left alone, and every early epoch's forecast is compared with the outcome."""
EARLY = (1, 2, 3, 5)
COLUMNS = (
    *("network", "mu", "target", "epochs", "forecast_epoch", "c_first", "c_last", "forecast"),
    *("sparsity", "error_points", "test_accuracy"),
)


def measure(runs: Path, name: str, target: float | None) -> list[dict[str, Any]]:
    """Train one network, or read what it did, and compare."""
    config = replace(NETWORKS[name], target_sparsity=target, forecast=target is None)
    out = runs / f"{name} {target or 'free'}".replace(" ", "-")
    summary = train(config, out, resume=(out / "config.json").exists(), display=Displays())
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [epoch for epoch in epochs if epoch["forecast"]]
    wanted = (*EARLY, config.epochs // 3, told[-1]["epoch"])
    shown = [t for t in told if t["epoch"] in wanted] if target is None else []
    scales = summary["scales"] or [{"c": config.c}]
    rows = []
    for epoch in shown or told[-1:]:
        foretold = epoch["forecast"]["sparsity"] if target is None else target
        rows.append(
            {
                "network": name,
                "mu": config.mu,
                "target": "" if target is None else target,
                "epochs": config.epochs,
                "forecast_epoch": epoch["epoch"],
                "c_first": f"{scales[0]['c']:.5f}",
                "c_last": f"{scales[-1]['c']:.5f}",
                "forecast": f"{foretold:.4f}",
                "sparsity": f"{summary['sparsity']:.4f}",
                "error_points": f"{100 * (summary['sparsity'] - foretold):+.2f}",
                "test_accuracy": f"{summary['test_accuracy']:.4f}",
            }
        )
    return rows


def main() -> None:
    """Measure everything, print it, and write forecast.csv and environment.json."""
    torch.set_num_threads(1)
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/forecast")
    rows = []
    for name in NETWORKS:
        for target in TARGETS:
            for row in measure(runs, name, target):
                print("  ".join(f"{column}={value}" for column, value in row.items()), flush=True)
                rows.append(row)
    with (HERE / "forecast.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    known = environment("cpu")
    kept = {key: known[key] for key in ("versions", "commit", "hardware", "started")}
    (HERE / "environment.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
