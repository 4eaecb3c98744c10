"""Epoch time, memory, DDP efficiency and checkpoints of GRDA, relative to SGD with momentum.

The optimizers train copies of one network on the same batches. Their epochs are interleaved and
ratios are taken within a round, so that a drift of the machine's speed cancels. Peak memory is
measured in processes in which one optimizer trains alone, in two ways: what torch allocates for
tensors, which is exact, and the resident memory of the process, which varies by some percent from
start to start, so the median of five processes is reported. DDP runs in two processes, each with
full batches and half of the threads; its efficiency is the epoch time of one such process divided
by that of two.

A plan computes its threshold at every eighth step before its end and, for a network of this size,
at every step after it. As in a whole run, three quarters of the measured steps lie before the end.

Run it on an otherwise idle machine; it takes six minutes:

    python benchmarks/trainers.py [--rounds 40] [--batches 2] [--json results/trainers/FILE.json]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from dirprune import GRDA, SparsityPlan, param_groups
from dirprune._support.checkpoint import load_checkpoint, pack, save_checkpoint, unpack
from dirprune._support.memory import peak_memory_mib
from dirprune.models import build
from machine import interleaved, quartiles, ratios, write

Optimizer = torch.optim.Optimizer
SGD = "SGD momentum"
PROCESSES = 5
"""Processes in which the memory of each optimizer is measured."""
MAKERS: dict[str, Callable[[nn.Module, int], Optimizer]] = {
    SGD: lambda net, steps: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True),
    "GRDA": lambda net, steps: GRDA(net.parameters(), lr=0.1, c=1e-3),
    "GRDA momentum": lambda net, steps: GRDA(net.parameters(), lr=0.1, c=1e-4, momentum=0.9),
    "GRDA momentum, plan": lambda net, steps: GRDA(
        param_groups(net, "weights"), lr=0.1, momentum=0.9, plan=plan_near_its_end(steps)
    ),
}


def plan_near_its_end(steps: int) -> SparsityPlan:
    """A plan of a long run, of which three quarters of the next steps lie before the end."""
    plan = SparsityPlan(0.9, steps=10_000)
    before = int(plan.end * (plan.steps - steps))
    plan.load_state_dict(plan.state_dict() | {"step": before})
    return plan


def trainer(
    name: str, options: argparse.Namespace, parallel: bool
) -> tuple[Callable[[], None], nn.Module, Optimizer]:
    """Return a function that trains one epoch, the network and the optimizer."""
    torch.manual_seed(0)
    net = build(options.model, num_classes=10, width=options.width)
    model = DistributedDataParallel(net) if parallel else net
    steps = options.batches * (options.rounds + 2)
    optimizer = MAKERS[name](net, steps)
    generator = torch.Generator().manual_seed(dist.get_rank() if parallel else 0)
    images = torch.randn(options.batches, options.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (options.batches, options.batch), generator=generator)

    def epoch() -> None:
        for x, y in zip(images, labels):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return epoch, net, optimizer


def epoch_times(options: argparse.Namespace, parallel: bool) -> dict[str, list[float]]:
    """Measure the seconds of every epoch of every optimizer."""
    candidates = {name: trainer(name, options, parallel)[0] for name in MAKERS}
    return interleaved(candidates, options.rounds)


def peaks_of_two_epochs(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory of this process, and peak size of its tensors, in MiB."""

    def train() -> None:
        epoch, _, _ = trainer(name, options, parallel=False)
        epoch()
        epoch()

    train()
    process = peak_memory_mib(torch.device("cpu"))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    tensors = max(e["args"]["Total Allocated"] for e in events if e["name"] == "[memory]")
    return {"process": process, "tensors": tensors / 2**20}


def checkpoint_figures(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the bytes of a checkpoint, and the median seconds to save and to resume."""
    epoch, net, optimizer = trainer(name, options, parallel=False)
    epoch()
    saving, resuming = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        for _ in range(options.rounds):
            start = time.perf_counter()
            meta, tensors = pack(optimizer.state_dict(), "optimizer")
            tensors |= {f"model.{key}": value for key, value in net.state_dict().items()}
            save_checkpoint(path, tensors, {"optimizer": meta})
            saving.append(time.perf_counter() - start)
            start = time.perf_counter()
            tensors, read = load_checkpoint(path)
            net.load_state_dict({key: tensors[f"model.{key}"] for key in net.state_dict()})
            optimizer.load_state_dict(unpack(read["optimizer"], tensors))
            resuming.append(time.perf_counter() - start)
        size = path.stat().st_size
    return {
        "bytes": size,
        "save_seconds": statistics.median(saving),
        "resume_seconds": statistics.median(resuming),
    }


def in_processes(arguments: list[str], world: int = 1) -> Any:
    """Run this script in new processes; return what the first one prints as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"WORLD_SIZE": str(world), "DIST_FILE": f"{folder}/init"}
        environment["KINETO_LOG_LEVEL"] = "5"  # the profiler's own messages
        if "--part=ddp" in arguments:  # the same number of threads for one process and for two
            environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // 2))
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, *arguments],
                env=environment | {"RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"a process of {' '.join(arguments)} failed")
    return json.loads(printed[0].splitlines()[-1])


def run_part(options: argparse.Namespace) -> None:
    """Measure the part ``--part`` in this process, print it as JSON and exit."""
    if options.part == "ddp":
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        init = f"file://{os.environ['DIST_FILE']}"
        dist.init_process_group("gloo", init_method=init, rank=rank, world_size=world)
        print(json.dumps(epoch_times(options, parallel=True)), flush=True)
        dist.barrier()
    else:
        print(json.dumps(peaks_of_two_epochs(options.part, options)), flush=True)
    os._exit(0)  # gloo's threads may abort an interpreter that shuts down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batches", type=int, default=2, help="in an epoch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.part:
        return run_part(options)
    passed_on = ("rounds", "batches", "batch", "model", "width")
    given = [f"--{name}={getattr(options, name)}" for name in passed_on]
    one = epoch_times(options, parallel=False)
    two = in_processes([*given, "--part=ddp"], 2)
    alone = in_processes([*given, "--part=ddp"], 1)
    peaks: dict[str, list[dict[str, float]]] = {name: [] for name in MAKERS}
    for _ in range(PROCESSES):
        for name in MAKERS:
            peaks[name].append(in_processes([*given, f"--part={name}"]))
    figures: dict[str, Any] = {"options": vars(options) | {"json": None}, "optimizers": {}}
    for name in MAKERS:
        efficiency = statistics.median(alone[name]) / statistics.median(two[name])
        figures["optimizers"][name] = {
            "epoch_seconds": quartiles(one[name]),
            "epoch_over_sgd": ratios(one[name], one[SGD]),
            "peak_tensors_mib": statistics.median(peak["tensors"] for peak in peaks[name]),
            "peak_process_mib": quartiles([peak["process"] for peak in peaks[name]]),
            "ddp_efficiency": efficiency,
            "checkpoint": checkpoint_figures(name, options),
        }
    base = figures["optimizers"][SGD]
    print(
        f"{'optimizer':22}{'epoch / SGD':>22}{'tensors / SGD':>15}{'process / SGD':>15}"
        f"{'DDP 2 / SGD':>13}{'checkpoint':>12}{'save':>9}{'resume':>9}"
    )
    for name, found in figures["optimizers"].items():
        found["tensors_over_sgd"] = found["peak_tensors_mib"] / base["peak_tensors_mib"]
        found["process_over_sgd"] = found["peak_process_mib"][1] / base["peak_process_mib"][1]
        found["ddp_over_sgd"] = found["ddp_efficiency"] / base["ddp_efficiency"]
        low, middle, high = found["epoch_over_sgd"]
        saved = found["checkpoint"]
        print(
            f"{name:22}{middle:8.3f} [{low:.3f}, {high:.3f}]{found['tensors_over_sgd']:13.4f}"
            f"{found['process_over_sgd']:15.3f}{found['ddp_over_sgd']:13.3f}"
            f"{saved['bytes'] / 1e6:9.2f} MB"
            f"{1e3 * saved['save_seconds']:6.0f} ms{1e3 * saved['resume_seconds']:6.0f} ms"
        )
    return write(options.json, figures)


if __name__ == "__main__":
    main()
