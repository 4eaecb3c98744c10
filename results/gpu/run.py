"""Trainings in order of importance, as many as fit into a visit to a GPU.

    python results/gpu/run.py --minutes 8 --data FOLDER [--out FOLDER]

FOLDER holds cifar10-jpeg-train.tar.xz and cifar10-jpeg-test.tar.xz. A run is appended to runs.csv
when it is complete; runs that are in the file are not repeated. Each method has one CUDA graph on
a stream of its own, and all of them train at the same time. `--dry` does everything on a CPU at a
tiny size.
"""

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from methods import METHODS
from training import Settings, Slot
from visit import Visit, rows

HERE = Path(__file__).parent
SPARSITIES = (0.95, 0.9, 0.98)
RATES = (0.1, 0.2, 0.4)
FINAL_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Job:
    """One run of ResNet-20."""

    method: str
    sparsity: float
    lr: float
    seed: int


@dataclass(frozen=True)
class Result(Job):
    """A run and what came out of it; accuracies are NaN where training diverged."""

    zeros: float
    validation: float
    test: float
    seconds: float
    device: str


def known(path: Path) -> dict[Job, Result]:
    """The runs of a CSV file."""
    return {Job(r.method, r.sparsity, r.lr, r.seed): r for r in rows.read(path, Result)}


def next_job(method: str, done: dict[Job, Result]) -> Job | None:
    """The most important run of a method that is still to be made."""
    for sparsity in (0.0,) if method == "dense" else SPARSITIES:
        tuning = [Job(method, sparsity, lr, 0) for lr in RATES]
        for job in tuning:
            if job not in done:
                return job
        finite = [job for job in tuning if math.isfinite(done[job].validation)]
        if not finite:
            continue
        best = max(finite, key=lambda job: done[job].validation).lr
        for seed in FINAL_SEEDS:
            if (job := Job(method, sparsity, best, seed)) not in done:
                return job
    return None


def train_resnets(visit: Visit, until: float) -> None:
    """Rounds of one run a method, all at the same time."""
    settings = Settings("resnet20", 0.25 if visit.dry else 1.0, 1 if visit.dry else 30,
                        16 if visit.dry else 128, 0.9, 5e-4, "cosine", False)  # fmt: skip
    done = known(visit.out / "runs.csv")
    slots = {m: Slot(m, settings, visit.train, visit.training) for m in METHODS}
    took: list[float] = []
    while True:
        jobs = {m: job for m in METHODS if (job := next_job(m, done)) is not None}
        late = time.monotonic() + (mean(took) if took else 0.0) > until
        if not jobs or (visit.dry and took) or late:
            return
        begun = time.monotonic()
        for method, job in jobs.items():
            slots[method].begin(job.lr, job.seed, job.sparsity)
        steps = next(iter(slots.values())).steps
        for step in range(steps):
            for method in jobs:
                slots[method].advance()
            if step % 200 == 199:
                visit.wait()  # keeps the queues short
                elapsed = time.monotonic() - begun
                if not took and step == 599:
                    visit.say(f"{1e3 * elapsed / (step + 1):.2f} ms a step of {len(jobs)} runs")
                if time.monotonic() > until + 20:
                    return
        visit.wait()
        seconds = time.monotonic() - begun
        took.append(seconds)
        for method, job in jobs.items():
            slot = slots[method]
            good = slot.is_finite()
            result = Result(
                **asdict(job),
                zeros=slot.sparsity_now(),
                validation=slot.accuracy(visit.train, visit.validation) if good else math.nan,
                test=slot.accuracy(visit.test) if good else math.nan,
                seconds=round(seconds / len(jobs), 2),
                device=visit.name,
            )
            done[job] = result
            visit.append("runs.csv", asdict(result))
            visit.say(
                f"{method} {job.sparsity} lr {job.lr} seed {job.seed}: validation "
                f"{result.validation:.4f} test {result.test:.4f} zeros {result.zeros:.4f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--threads", type=int, default=12, help="that decode images")
    parser.add_argument("--resnet", type=float, default=0.6, help="share of the time")
    parser.add_argument("--dry", action="store_true", help="a tiny size on the CPU")
    args = parser.parse_args()
    if not args.dry:
        torch.backends.cudnn.benchmark = True
    visit = Visit(args)
    train_resnets(visit, time.monotonic() + args.resnet * visit.left())
    from vgg import train_vgg

    train_vgg(visit)
    visit.say("done")


if __name__ == "__main__":
    main()
