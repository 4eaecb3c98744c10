"""One-shot pruning of trained networks by four rules, at equal sparsity.

    python results/one-shot/measure.py [FOLDER]

Networks already trained in FOLDER (runs/one-shot by default) and seeds already in one_shot.csv are
not repeated.
"""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dirprune import refresh_batchnorm
from dirprune._support.environment import environment
from dirprune.data.loading import load
from dirprune.landscape import (
    Hessian,
    Objective,
    Point,
    hessian_diagonal,
    prune_once,
    top_eigenpairs,
)
from dirprune.models import build
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.loop import train

HERE = Path(__file__).parent
DIGITS = TrainConfig(device="cpu", method="sgd", augment=False)
NETWORKS = {
    "mlp": replace(DIGITS, model="mlp", width=1 / 16),
    "convnet": replace(DIGITS, model="convnet", width=1 / 8),
    "resnet20": replace(DIGITS, model="resnet20", width=0.25, epochs=8),
}
SEEDS = {"mlp": (1, 2, 3), "convnet": (1, 2, 3), "resnet20": (1,)}
SPARSITIES = (0.5, 0.8, 0.9)
KNOWN = {"convnet": 100, "resnet20": 50}
"""Number of eigenpairs of largest magnitude, in float32; the MLP's dense Hessian is computed."""
SAMPLES = 100
"""Products for the estimate of the diagonal if the dense Hessian is not computed."""
RANKS = (0, 10, 50, 100, 300, 600, 1000, 1500)
SHOWN = ("rule", "rank", "lam", "sparsity", "overlap", "clipped", "leaves", "curvature")


def dense(objective: Objective, point: Point) -> Tensor:
    """The dense Hessian, 50 columns at a time."""
    objective.load(point)
    model, total = objective.model, torch.zeros(len(point.w), len(point.w), dtype=point.w.dtype)
    for inputs, targets in objective.batches():

        def loss(w: Tensor, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            outputs = torch.func.functional_call(model, objective.layout.tensors(w), inputs)
            return objective.loss(outputs, targets) * len(targets) / objective.data.samples

        gradient = torch.func.grad(loss)

        def product(v: Tensor, gradient: Any = gradient) -> Tensor:
            return torch.func.jvp(gradient, (point.w,), (v,))[1]

        total += torch.func.vmap(product, chunk_size=50)(torch.eye(len(point.w)).to(total))
    return (total + total.mT) / 2


def curvature(
    objective: Objective, point: Point, known: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues, eigenvectors as rows and the diagonal: all, or the ``known`` largest."""
    if known is None:
        hessian = dense(objective, point)
        values, columns = torch.linalg.eigh(hessian)
        return values, columns.mT.contiguous(), hessian.diag()
    objective.load(point)
    product = Hessian(objective.model, objective.loss, objective.data)
    pairs = top_eigenpairs(product, known, which="magnitude", tol=3e-2, basis=3 * known)
    print(
        f"    {pairs.products} products, residuals up to {float(pairs.residuals.max()):.1e}, "
        f"values {float(pairs.values[0]):.3g} to {float(pairs.values[-1]):.3g}",
        flush=True,
    )
    return pairs.values, pairs.vectors, hessian_diagonal(product, SAMPLES)


def trained(runs: Path, name: str, seed: int) -> tuple[Objective, Objective, Point]:
    """A network trained by SGD: objectives on the training and test images, and its weights."""
    config = replace(NETWORKS[name], seed=seed)
    folder = runs / f"{name}-seed{seed}"
    if not (folder / "summary.json").exists():
        train(config, folder, resume=(folder / "config.json").exists(), display=Displays())
    data = load(
        config.data, validation=config.validation, seed=config.seed, augment=config.augment
    )
    model = build(
        config.model,
        num_classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        width=config.width,
    )
    model.load_state_dict(load_file(folder / "model.safetensors"))
    if name not in KNOWN:
        model.double()
    objective = Objective(model, F.cross_entropy, list(data.train.batches(500)))
    point = objective.layout.point(model.state_dict())
    return objective, objective.over(list(data.test.batches(500))), point


def measure(runs: Path, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Prune one network by every rule to every sparsity, and evaluate the results."""
    objective, test, point = trained(runs, name, seed)
    head = {"network": name, "weights": len(point.w), "seed": seed}
    has_statistics = any("running" in key for key in point.rest)

    def evaluated(weights: Tensor, refreshed: bool) -> dict[str, Any]:
        objective.load(Point(weights, point.rest))
        if refreshed:
            refresh_batchnorm(objective.model, (x for x, _ in objective.batches()))
        one, other = objective.measure(), test.measure()
        return {
            "refreshed": refreshed,
            "train_loss": f"{one.loss:.5g}",
            "train_error": f"{one.error:.4f}",
            "test_error": f"{other.error:.4f}",
        }

    before = {"asked": 0.0} | dict.fromkeys(SHOWN, "") | {"rule": "as trained"}
    for refreshed in (False, True)[: 1 + has_statistics]:
        yield head | before | evaluated(point.w, refreshed)
    values, vectors, diagonal = curvature(objective, point, KNOWN.get(name))
    ranks = [rank for rank in RANKS if rank <= len(values)]
    for sparsity in SPARSITIES:
        for shot in prune_once(point.w, sparsity, values, vectors, diagonal, ranks):
            figures = {key: format_figure(getattr(shot, key)) for key in SHOWN}
            for refreshed in (False, True)[: 1 + has_statistics]:
                yield head | {"asked": sparsity} | figures | evaluated(shot.weights, refreshed)


def format_figure(value: object) -> str:
    """Format a figure for the CSV file."""
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure the missing seeds and write one_shot.csv and environment.json."""
    torch.set_num_threads(1)
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/one-shot")
    path = HERE / "one_shot.csv"
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["network"], row["seed"]) for row in rows}
    for name in NETWORKS:
        for seed in SEEDS[name]:
            if (name, str(seed)) in done:
                continue
            print(name, seed, flush=True)
            rows += measure(runs, name, seed)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    known = environment("cpu")
    kept = {key: known[key] for key in ("versions", "commit", "hardware", "started")}
    (HERE / "environment.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
