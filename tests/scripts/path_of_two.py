"""Script of test_paths.py, run directly or by torchrun: measures a path and writes the result."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.landscape import ParameterLayout, path, straight_line
from dirprune.landscape.objectives.policy import BatchNormStatistics


class Counted:
    """Counts the points that this process measures."""

    def __init__(self) -> None:
        self.points = 0
        load = BatchNormStatistics.load

        def counted(statistics: BatchNormStatistics, w: Tensor, shares: Sequence[float]) -> None:
            self.points += 1
            load(statistics, w, shares)

        BatchNormStatistics.load = counted  # type: ignore[method-assign]


def main(folder: Path) -> None:
    rank = os.environ.get("RANK", "alone")
    if rank != "alone":
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    ends = []
    for _ in range(2):
        for p in model.parameters():
            nn.init.normal_(p)
        ends.append(ParameterLayout(model).point(model.state_dict()))
    data = {"train": (torch.randn(20, 3), torch.randint(2, (20,)))}
    save = folder / f"save-{'alone' if rank == 'alone' else 'shared'}"
    count = Counted()
    found = path(straight_line(*ends), model, F.cross_entropy, data, points=7, save=save)
    loss, error = found.loss["train"].values, found.error["train"].values
    figures = {"loss": loss, "error": error, "points": count.points}
    (folder / f"{rank}.json").write_text(json.dumps(figures))
    if rank != "alone":
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
