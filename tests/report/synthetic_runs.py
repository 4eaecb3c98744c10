"""Run folders with figures from fixed formulas, in the format of the training loop."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dirprune.train.config import TrainConfig

SHAPES = {
    "features.0.weight": (16, 1, 3, 3),
    "features.0.bias": (16,),
    "features.3.weight": (32, 16, 3, 3),
    "features.3.bias": (32,),
    "classifier.0.weight": (64, 288),
    "classifier.0.bias": (64,),
    "classifier.2.weight": (10, 64),
    "classifier.2.bias": (10,),
}
TOTAL = sum(math.prod(shape) for shape in SHAPES.values())
STEPS = 45  # an epoch
OUTCOME = {  # final accuracy and sparsity
    "sgd": (0.978, 0.0),
    "sgd_momentum": (0.981, 0.0),
    "grda": (0.9805, 0.919),
    "grda_momentum": (0.9812, 0.893),
    "prox_sgd": (0.969, 0.915),
    "rda": (0.964, 0.922),
    "gmp": (0.972, 0.919),
    "magnitude": (0.921, 0.919),
    "magnitude_finetune": (0.971, 0.919),
    "random": (0.713, 0.919),
}


def write_run(
    folder: Path, method: str = "grda", *, seed: int = 1, status: str = "finished", **changes: Any
) -> Path:
    """Write a run of 30 epochs; unless its status is "finished", it stops after 7."""
    config = replace(TrainConfig(method=method, seed=seed, epochs=30), **changes)
    last = config.epochs if status == "finished" else min(7, config.epochs)
    epochs = [epoch_line(config, e) for e in range(1, last + 1)]
    if status == "diverged":
        epochs[-1].update(train_loss=math.nan, test_loss=math.inf, test_accuracy=0.1, l2=math.nan)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": asdict(config),
        "recipe": None,
        "command": ["dirprune", "train", "--method", method, "--seed", str(seed)],
        "versions": {"python": "3.11.2", "torch": "2.14.1", "dirprune": "0.1.0"},
        "commit": None,
        "hardware": {"cpu": "Example 4-core", "cores": 4, "threads": 2, "device": "cpu"},
        "started": "2026-01-02T03:04:05+00:00",
    }
    write_json(folder / "config.json", record)
    lines = "".join(json.dumps(line) + "\n" for line in epochs)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    if status != "unfinished":
        write_json(folder / "summary.json", summary(config, epochs, status))
    return folder


def write_comparison(folder: Path, methods: tuple[str, ...] = tuple(OUTCOME)) -> Path:
    """Three seeds of every method."""
    runs = [f"{method}/seed{seed}" for method in methods for seed in (1, 2, 3)]
    for run in runs:
        method, _, seed = run.partition("/seed")
        write_run(folder / run, method, seed=int(seed))
    grid = {method: {"0.05": 0.97, "0.1": 0.98} for method in methods}
    write_json(folder / "comparison.json", {"runs": runs, "lr_grid": grid})
    return folder


def epoch_line(config: TrainConfig, epoch: int) -> dict[str, Any]:
    """Exponential approach to the outcome, with a ripple that depends on the seed."""
    accuracy, sparsity = OUTCOME.get(config.method, (0.9, 0.5))
    done = 1 - math.exp(-5 * epoch / config.epochs)
    ripple = math.sin(epoch * 1.7 + config.seed * 2.1)
    zeros = round(TOTAL * sparsity * done)
    soft = config.method.startswith(("grda", "rda"))
    g = 0.02 * (epoch * STEPS) ** 0.6 * 0.05 if soft else None
    ratio = TOTAL**-0.5 * (1.2 + 2 * sparsity * done)
    return {
        "epoch": epoch,
        "step": epoch * STEPS,
        "lr": config.lr,
        "train_loss": 2.2 * math.exp(-8 * epoch / config.epochs) + 0.01 + 0.002 * ripple,
        "train_accuracy": 0.1 + 0.89 * done,
        "test_loss": 2.2 * (1 - done) + 0.08 + 0.004 * ripple,
        "test_accuracy": 0.1 + (accuracy - 0.1) * done + 0.002 * ripple,
        "validation_loss": None,
        "validation_accuracy": None,
        "sparsity": zeros / TOTAL,
        "nonzeros": TOTAL - zeros,
        "threshold": g,
        "l1": 100.0,
        "l2": 100.0 * ratio,
        "l2_over_l1": ratio,
        "seconds": 1.2 + 0.1 * ripple,
    }


def summary(config: TrainConfig, epochs: list[dict[str, Any]], status: str) -> dict[str, Any]:
    """The figures of the last epoch, and those that exist only at the end of a run."""
    end = epochs[-1]
    zeros, g = TOTAL - end["nonzeros"], end["threshold"]
    path = [round(len(epochs) * STEPS * i / 100) for i in range(101)]
    weights = _bell(TOTAL - zeros, 0.3)
    weights["counts"][20] += zeros  # the bin that begins at 0 holds the zeros too
    same = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "sparsity", "nonzeros")
    return {
        "status": status,
        "epochs": len(epochs),
        **{key: end[key] for key in (*same, "threshold", "l1", "l2", "l2_over_l1")},
        "zeros": zeros,
        "total": TOTAL,
        "seconds_per_epoch": 1.2 + 0.01 * config.seed,
        "peak_memory_mib": 412.5 + config.seed,
        "weights_bytes": 4 * TOTAL,
        "weights_zstd_bytes": 4 * (TOTAL - zeros) + 2000,
        "best": None,
        "layers": [_layer(name, shape, zeros / TOTAL) for name, shape in SHAPES.items()],
        "threshold_path": g and {"step": path, "g": [0.001 * step**0.6 for step in path]},
        "histograms": {"weights": weights, "accumulators": g and _bell(TOTAL, 0.2)},
    }


def write_json(path: Path, record: object) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")


def _layer(name: str, shape: tuple[int, ...], share: float) -> dict[str, Any]:
    total = math.prod(shape)
    zeros = min(total, round(total * share * (0.7 + 0.3 * math.log(total) / math.log(18432))))
    wide = len(shape) > 1
    return {
        "name": name,
        "shape": list(shape),
        "zeros": zeros,
        "total": total,
        "dead_outputs": 1 if wide else None,
        "outputs": shape[0] if wide else None,
        "unread_inputs": 0 if wide else None,
        "inputs": shape[1] if wide else None,
    }


def _bell(number: int, width: float) -> dict[str, list[Any]]:
    """A histogram with 40 bins from -1 to 1 and ``number`` values in total."""
    edges = [(i - 20) / 20 for i in range(41)]
    heights = [math.exp(-(((e + 0.025) / width) ** 2)) for e in edges[:-1]]
    counts = [int(number * h / sum(heights)) for h in heights]
    counts[19] += number - sum(counts)
    return {"edges": edges, "counts": counts}
