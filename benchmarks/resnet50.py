"""A training step of ResNet-50 at 224 x 224 with GRDA, SGD and SGD with momentum.

Time: interleaved steps in one process, on the same batches of real images. Peak memory: each
method in a new process, started with ``--only``.

    python benchmarks/resnet50.py FOLDER_OF_IMAGES [--rounds 10] [--json FILE.json]
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision import transforms

from dirprune import GRDA
from machine import interleaved, quartiles, ratios, write

METHODS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
    "SGD momentum": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "GRDA": lambda m: GRDA(m.parameters(), lr=0.1, c=0.005, mu=0.55),
}


def batches(folder: Path, size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Decode images, cropped and flipped as for training, so that decoding is not timed."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = torchvision.datasets.ImageFolder(folder, transform)
    loader = torch.utils.data.DataLoader(images, size, shuffle=True, drop_last=True)
    return [
        (x.contiguous(memory_format=torch.channels_last), y)
        for x, y in itertools.islice(
            itertools.chain.from_iterable(itertools.repeat(loader)), count
        )
    ]


def stepper(method: str, data: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """Return a function that takes a training step on the next batch."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50().to(memory_format=torch.channels_last)
    optimizer = METHODS[method](model)
    stream = itertools.cycle(data)

    def step() -> None:
        images, labels = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def peak_mib(method: str, options: argparse.Namespace) -> float:
    """Peak memory of three steps in a new process."""
    command = [sys.executable, __file__, str(options.folder), "--only", method]
    command += ["--batch", str(options.batch), "--threads", str(options.threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="FOLDER/CLASS/*.jpg")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=METHODS, help="print this method's peak memory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.only:
        step = stepper(options.only, batches(options.folder, options.batch, 3))
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    # Before this process allocates: a child process starts at its parent's peak.
    peaks = {name: peak_mib(name, options) for name in METHODS}
    data = batches(options.folder, options.batch, options.rounds)
    times = interleaved({name: stepper(name, data) for name in METHODS}, options.rounds)
    figures = {}
    for name in METHODS:
        figures[name] = {
            "seconds": quartiles(times[name]),
            "over_sgd": ratios(times[name], times["SGD"]),
            "over_sgd_momentum": ratios(times[name], times["SGD momentum"]),
            "peak_mib": peaks[name],
        }
        print(name, json.dumps(figures[name]))
    write(options.json, {"batch": options.batch, "rounds": options.rounds, "methods": figures})


if __name__ == "__main__":
    main()
