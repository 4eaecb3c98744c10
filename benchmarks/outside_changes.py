"""What it costs that a step looks for weights that other code has changed.

Two optimizers take steps in turn, one without the comparison, on ResNet-50's tensors,
on an otherwise idle machine. Half of the pairs start with one, half with the other.

    python benchmarks/outside_changes.py [--rounds 400] [--json FILE.json]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from dirprune import GRDA, AdamGRDA
from machine import interleaved, quartiles, ratios, write

MAKERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "GRDA": lambda p: GRDA(p, lr=0.1, c=1e-3, mu=0.6),
    "GRDA momentum": lambda p: GRDA(p, lr=0.1, c=1e-3, mu=0.6, momentum=0.9),
    "AdamGRDA": lambda p: AdamGRDA(p, lr=1e-3, c=1e-3, mu=0.6),
}


def stepper(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Any:
    """The step of an optimizer of its own, on its own copy of the weights."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for p in torchvision.models.resnet50().parameters():
        parameters.append(nn.Parameter(torch.randn(p.shape, generator=generator) * 0.05))
        parameters[-1].grad = torch.randn(p.shape, generator=generator) * 1e-3
    return make(parameters).step


def measure(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], rounds: int) -> dict:
    """Milliseconds of both, and the quartiles of their ratio."""
    step, without = stepper(make), stepper(make)
    without()  # which prepares the tables of the steps that follow
    for prepared in without.__self__._prepared.values():
        arrays = prepared.tables
        arrays.find_rewritten = lambda w, v: set()
        arrays.find_changed = lambda g, power: set()
        arrays._sample = None
    both = [("with", step), ("without", without)]
    first = interleaved(dict(both), rounds // 2, warmup=5)
    second = interleaved(dict(reversed(both)), rounds // 2)
    times = {name: first[name] + second[name] for name, _ in both}
    return {
        "ms": {name: quartiles(times[name], 1e3) for name in times},
        "ratio": ratios(times["with"], times["without"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = {}
    for name, make in MAKERS.items():
        figures[name] = found = measure(make, options.rounds)
        low, middle, high = found["ratio"]
        print(f"{name:15} {found['ms']['with'][1]:6.2f} ms, x {middle:.3f} ({low:.3f}-{high:.3f})")
    write(options.json, {"rounds": options.rounds, "optimizers": figures})


if __name__ == "__main__":
    main()
