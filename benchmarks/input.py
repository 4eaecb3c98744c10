"""Cost of the input pipeline relative to a training step of a quarter-width vgg16_bn.

Batches of 128 with crop and flip, drawn from 50,000 random images of CIFAR-10's size, interleaved
with training steps on them, in one process:

    python benchmarks/input.py [--rounds 25] [--json results/input/FILE.json]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune import GRDA
from dirprune.data.augment import CropFlip
from dirprune.data.sources import MemorySource
from dirprune.models import build
from machine import interleaved, quartiles, ratios, write

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build("vgg16_bn", num_classes=10, channels=3, size=(32, 32), width=0.25)
    model = model.to(memory_format=torch.channels_last)
    optimizer = GRDA(model.parameters(), lr=0.01)
    source = random_source()
    stream = endless(source)
    batch = next(stream)

    def draw() -> None:
        nonlocal batch
        batch = next(stream)

    def step() -> None:
        images, labels = batch
        optimizer.zero_grad()
        scores = model(images.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(scores, labels).backward()
        optimizer.step()

    times = interleaved({"input": draw, "step": step}, options.rounds)
    share = ratios(times["input"], times["step"])
    figures = {name: quartiles(t, 1e3) for name, t in times.items()}
    print("ms a batch (quartiles):", {k: [round(x, 2) for x in v] for k, v in figures.items()})
    print("input over step (quartiles):", [f"{x:.2%}" for x in share])
    write(options.json, {"ms": figures, "input_over_step": share, "batch": BATCH})


def random_source() -> MemorySource:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (50_000,), generator=generator)
    return MemorySource(images, labels, (0.5,) * 3, (0.25,) * 3, CropFlip(padding=4))


def endless(source: MemorySource) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        yield from source.batches(BATCH, seed=1, epoch=epoch, shuffle=True, augment=True)
        epoch += 1


if __name__ == "__main__":
    main()
