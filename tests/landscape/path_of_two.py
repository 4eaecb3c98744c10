"""Measures a path, alone or as one of several processes, and writes what it found to FOLDER."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from dirprune.landscape import Layout, path, straight_line
from dirprune.landscape.policy import Statistics

measured = 0
load = Statistics.load


def counted(self: Statistics, w: torch.Tensor, shares: list[float]) -> None:
    global measured
    measured += 1
    load(self, w, shares)


Statistics.load = counted  # type: ignore[method-assign]
folder = Path(sys.argv[1])
rank = os.environ.get("RANK", "alone")
if rank != "alone":
    dist.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
ends = []
for _ in range(2):
    for p in model.parameters():
        nn.init.normal_(p)
    ends.append(Layout(model).point(model.state_dict()))
data = {"train": (torch.randn(20, 3), torch.randint(2, (20,)))}
save = folder / f"save-{'alone' if rank == 'alone' else 'shared'}"
found = path(straight_line(*ends), model, F.cross_entropy, data, points=7, save=save)
figures = {"loss": found.loss["train"].values, "error": found.error["train"].values}
if rank != "alone":
    figures["points"] = measured
    dist.destroy_process_group()
(folder / f"{rank}.json").write_text(json.dumps(figures))
