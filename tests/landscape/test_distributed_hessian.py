"""Hessian products of two processes, started by torchrun, equal those of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = """
import json, os, sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from dirprune.landscape import GaussNewton, Hessian, directional_density, top_eigenpairs

if __name__ == "__main__":
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    ).double()
    x, y = torch.randn(11, 1, 6, 6).double(), torch.arange(11) % 3
    found = {}
    for name, data in {
        "ragged": list(zip(x.split(3), y.split(3))), "one batch": [(x, y)]
    }.items():
        for mode in ("graph", "reverse-over-reverse", "auto"):
            hessian = Hessian(model, F.cross_entropy, data, mode=mode)
            d = torch.linspace(-1, 1, hessian.dimension).double()
            found[f"{name} {mode}"] = hessian(d).tolist() + [hessian.loss]
        found[f"{name} gauss-newton"] = GaussNewton(model, F.cross_entropy, data)(d).tolist()
    pairs = top_eigenpairs(hessian, 2, tol=1e-8)
    found["values"] = pairs.values.tolist()
    found["vectors"] = pairs.vectors.abs().flatten().tolist()
    found["share"] = list(directional_density(hessian, d, 10).above(0.1))
    rank = os.environ.get("RANK", "0")
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
    if "RANK" in os.environ:
        dist.destroy_process_group()
"""


def run(folder: Path, processes: int) -> list[dict[str, Any]]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command = [sys.executable]
    if processes > 1:
        command += [*launcher, f"--master_port={port}"]
    done = subprocess.run(
        [*command, str(script), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    (alone,) = run(tmp_path / "one", 1)
    first, second = run(tmp_path / "two", 2)
    assert first == second
    for name, expected in alone.items():
        largest = max(abs(n) for n in expected)
        assert len(first[name]) == len(expected)
        for a, b in zip(first[name], expected):
            assert abs(a - b) <= 1e-9 * largest, name
