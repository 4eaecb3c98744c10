"""The clock, the data and the files of a visit to a GPU."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from images import Images, read, split

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import rows


class Visit:
    """The clock, the data and the files of one visit."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.begun = time.monotonic()
        self.deadline = self.begun + 60 * args.minutes
        self.dry, self.out = args.dry, args.out
        self.device = "cpu" if args.dry else "cuda"
        self.name = "cpu" if args.dry else torch.cuda.get_device_name()
        args.out.mkdir(parents=True, exist_ok=True)
        few = 12 if args.dry else None
        archives = [args.data / f"cifar10-jpeg-{part}.tar.xz" for part in ("train", "test")]
        (images, labels), test = (read(a, args.threads, few) for a in archives)
        torch.set_num_threads(2)
        self.training, self.validation = (
            p.to(self.device) for p in split(labels, 4 if args.dry else 500)
        )
        self.all = torch.arange(len(labels), device=self.device)
        self.train, self.test = Images(images, labels, self.device), Images(*test, self.device)
        self.say(f"{len(self.train)} and {len(self.test)} images")

    def say(self, text: str) -> None:
        """Print with the time since the start."""
        print(f"{time.monotonic() - self.begun:6.1f} s  {text}", flush=True)

    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.monotonic()

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add a line to a CSV file."""
        rows.append(self.out / name, row)

    def wait(self) -> None:
        """Until the device is done."""
        if not self.dry:
            torch.cuda.synchronize()
