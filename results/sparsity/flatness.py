"""Is the end of a run with p = 2, 3 or hard as close to the dense valley as with p = 1?

    python results/sparsity/flatness.py --seeds 1 2

The networks of `fashion-cnn` are trained to 95 % zeros from the start of a dense network, with its
batches and its rate. The control is a second dense network with its batches in another order. A
line is added to flatness.csv for each network; lines that are there are not measured again.
"""

import argparse
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import rows
from methods import SGD
from problems import PROBLEMS, Batch, rate
from torch import Tensor, nn

from dirprune.directional import DirectionalPath, FlatProjector
from dirprune.landscape import (
    Hessian,
    ParameterLayout,
    fit_bezier,
    path,
    straight_line,
    top_eigenpairs,
)
from dirprune.survey.curvature import projection_ratios

HERE = Path(__file__).parent
PROBLEM, SPARSITY, LR, TOP = "fashion-cnn", 0.95, 0.2, 10
METHODS = ("dense, other batches", "grda p=1", "grda p=2", "grda p=3", "hard", "gmp")
IMAGES = 4000
State = dict[str, Tensor]


def train(method: str, seed: int) -> tuple[nn.Module, float]:
    """A network and its test accuracy."""
    problem = PROBLEMS[PROBLEM]()
    torch.manual_seed(seed)
    model = problem.build()
    name = "dense" if method.startswith("dense") else method
    optimizer = SGD[name](model, LR, problem.steps, SPARSITY)
    for step, (x, y) in enumerate(problem.batches(seed + 100 * ("other" in method))):
        for group in optimizer.param_groups:
            group["lr"] = LR * rate(step, problem.steps)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), problem.evaluate(model, "test")


def images() -> list[Batch]:
    """Training images, the same for every measurement."""
    found: list[Batch] = []
    for batch in PROBLEMS[PROBLEM]().batches(0):
        found.append(batch)
        if sum(len(y) for _, y in found) >= IMAGES:
            break
    return found


class Valley:
    """The dense network with its sharp directions."""

    def __init__(self, dense: nn.Module, data: list[Batch]) -> None:
        self.model, self.data = dense, data
        self.state = copy.deepcopy(dense.state_dict())
        self.layout = ParameterLayout(dense)
        self.point = self.layout.point(self.state)
        found = top_eigenpairs(Hessian(dense, F.cross_entropy, data), TOP, tol=1e-3)
        self.sharp = found.vectors
        w = self.point.w
        self.weights = torch.cat(
            [torch.full((p.numel(),), p.ndim > 1) for p in dense.parameters()]
        )
        steps = DirectionalPath(w, FlatProjector(self.sharp.to(w)))
        zeros = min(SPARSITY, steps.largest_sparsity)
        self.pruned = steps.weights(steps.lam_for(zeros))

    def measure(self, state: State) -> dict[str, float]:
        """How another network is connected to the dense one."""
        there = self.layout.point(state)
        step = there.w - self.point.w
        line = self._losses(straight_line(self.point, there))
        fit = fit_bezier(
            self.state, state, self.model, F.cross_entropy, self.data, epochs=10, lr=0.05,
            momentum=0.9,
        )  # fmt: skip
        curve = self._losses(fit.curve)
        kept, own = (x[self.weights] != 0 for x in (there.w, self.pruned))
        share = float(projection_ratios(self.sharp, step)[-1])
        direction = self.pruned - self.point.w
        return {
            "loss": line[-1],
            "dense loss": line[0],
            "line": max(line) - max(line[0], line[-1]),
            "curve": max(curve) - max(curve[0], curve[-1]),
            "distance": float(step.norm()),
            "top 10": share,
            "top 10 of a random step": math.sqrt(TOP / self.layout.size),
            "kept by both": float((kept & own).sum() / kept.sum()),
            "cosine": float(F.cosine_similarity(step, direction, dim=0)),
        }

    def _losses(self, curve: Any) -> list[float]:
        figures = path(curve, self.model, F.cross_entropy, {"train": self.data}, points=21)
        return list(figures.loss["train"].values)


@dataclass(frozen=True)
class Known:
    """What identifies a row."""

    method: str
    seed: int


def missing(file: Path, seeds: list[int]) -> Iterator[tuple[int, list[str]]]:
    """The methods of each seed that are not in the file."""
    known = rows.read(file, Known)
    for seed in seeds:
        if methods := [m for m in METHODS if Known(m, seed) not in known]:
            yield seed, methods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=HERE / "flatness.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed, methods in missing(args.out, args.seeds):
        dense, accuracy = train("dense", seed)
        print(f"seed {seed}, dense: {accuracy:.2f} %", flush=True)
        valley = Valley(dense, images())
        for method in methods:
            model, accuracy = train(method, seed)
            row = {"method": method, "seed": seed, "test": accuracy}
            row |= valley.measure(copy.deepcopy(model.state_dict()))
            rows.append(args.out, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
