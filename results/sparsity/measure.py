"""Train the grid of PROTOCOL.md: of each method the rates, then the seeds; one CSV row per run.

    python results/sparsity/measure.py --problems characters fashion-cnn --workers 2 --minutes 60

Runs that are in runs.csv are not repeated, so that the command continues after a stop. Each run
uses one thread.
"""

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from methods import ADAM, SGD, Maker, groups
from problems import PROBLEMS, CharTransformer, PatchTransformer, rate, small_cnn
from torch import nn

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "benchmarks"))
import rows  # noqa: E402

SPARSITIES = {
    "characters": (0.9, 0.95, 0.8, 0.5),
    "characters-clipped": (0.9, 0.95),
    "characters-long": (0.9,),
    "fashion-cnn": (0.95, 0.98),
    "fashion-vit": (0.9, 0.95),
}
RATES = {
    "characters": (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2),
    "characters-clipped": (3e-3, 6e-3, 1.2e-2, 2.4e-2),
    "characters-long": (6e-3, 1.2e-2, 2.4e-2),
    "fashion-cnn": (0.1, 0.2, 0.4, 0.8),
    "fashion-vit": (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2),
}
MAIN = {
    "characters": (
        "grda p=1", "grda p=1.5", "grda p=2", "grda p=3", "grda p=5", "hard", "gmp", "adabreg",
    ),
    "characters-clipped": ("grda p=1", "grda p=1.5", "grda p=2", "grda p=3", "hard", "gmp"),
    "characters-long": ("grda p=1", "grda p=2", "gmp"),
    "fashion-cnn": ("grda p=2", "gmp", "grda p=1", "grda p=3", "hard", "pat"),
    "fashion-vit": ("grda p=1", "grda p=2", "grda p=3", "gmp"),
}  # fmt: skip
ENDS = "gmp end=0.5", "gmp end=0.85", "grda p=2 end=0.5", "grda p=2 end=0.85"
DECAYS = (
    "grda p=2 decay 0.1 on v", "grda p=2 decay 0.1", "gmp decay 0.1", "grda p=2 decay on v",
)  # fmt: skip
EXTRA = {
    "characters": [(method, 0.9) for method in ENDS],
    "characters-clipped": [(method, s) for s in (0.9, 0.95) for method in DECAYS],
    "fashion-cnn": [
        ("grda p=2 decay on v", 0.95), ("grda p=2 decay on v", 0.98),
        ("grda p=2 end=0.5", 0.95), ("grda p=2 end=0.9", 0.95), ("acdc", 0.95), ("rigl", 0.95),
    ],
    "fashion-vit": [("grda p=2 decay 0.1 on v", 0.9), ("grda p=2 decay 0.1", 0.9)],
}  # fmt: skip
"""What the protocol's amendments add, with the sparsity, after all others."""
FINAL_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Job:
    """One training run; ``sparsity`` 0 for dense networks."""

    problem: str
    method: str
    sparsity: float
    lr: float
    seed: int


@dataclass(frozen=True)
class Result(Job):
    """A run and its results; NaN if training diverged."""

    zeros: float
    validation: float
    test: float
    empty_tensors: int
    seconds: float


def build(job: Job) -> nn.Module:
    """The network; ``narrow`` has about as many weights as the sparse one has nonzeros."""
    if job.method != "narrow":
        return PROBLEMS[job.problem]().build()
    keep = 1 - job.sparsity
    if job.problem == "fashion-cnn":
        return small_cnn(2 * max(2, round(16 * keep**0.5)))
    width = 4 * max(1, round(16 * keep**0.5))
    if job.problem == "fashion-vit":
        return PatchTransformer(width)
    full = PROBLEMS[job.problem]().build()
    return CharTransformer(full.token.num_embeddings, width)


def run(job: Job) -> Result:
    """Train once with the job's method."""
    makers: dict[str, Maker] = SGD if job.problem == "fashion-cnn" else ADAM
    return train(job, makers["dense" if job.method == "narrow" else job.method])


def train(job: Job, make: Maker) -> Result:
    """Train once with the optimizer that ``make`` returns, in this process, on one thread."""
    begun = time.monotonic()
    model = trained(job, make)
    seconds = round(time.monotonic() - begun, 1)
    if model is None:
        return Result(**asdict(job), zeros=math.nan, validation=math.nan, test=math.nan,
                      empty_tensors=0, seconds=seconds)  # fmt: skip
    problem = PROBLEMS[job.problem]()
    planned = groups(model)[0]["params"]
    zeros = sum(int((p == 0).sum()) for p in planned) / sum(p.numel() for p in planned)
    return Result(
        **asdict(job),
        zeros=zeros,
        validation=problem.evaluate(model, "validation"),
        test=problem.evaluate(model, "test"),
        empty_tensors=sum(not p.any() for p in planned),
        seconds=seconds,
    )


def trained(job: Job, make: Maker) -> nn.Module | None:
    """The network at the end of a run, in evaluation mode; None if training diverged."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    problem = PROBLEMS[job.problem]()
    model = build(job).to(memory_format=torch.channels_last)  # faster convolutions on CPUs
    optimizer = make(model, job.lr, problem.steps, job.sparsity)
    base = [group["lr"] for group in optimizer.param_groups]
    for step, (x, y) in enumerate(problem.batches(job.seed)):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * rate(step, problem.steps)
        optimizer.zero_grad()
        out = model(x)
        loss = F.cross_entropy(out.flatten(0, -2), y)
        loss.backward()
        if math.isfinite(problem.clip):
            nn.utils.clip_grad_norm_(model.parameters(), problem.clip)
        optimizer.step()
        if step % 100 == 0 and not math.isfinite(loss.item()):
            return None
    return model.eval()


def read(path: Path) -> dict[Job, Result]:
    """Read the runs of a CSV file."""
    return {Job(*astuple(row)[: len(fields(Job))]): row for row in rows.read(path, Result)}


def best_rate(done: dict[Job, Result], problem: str, method: str, sparsity: float) -> float | None:
    """The rate with the best validation figure at seed 0; None until all rates are measured."""
    jobs = [Job(problem, method, sparsity, lr, 0) for lr in RATES[problem]]
    if any(job not in done for job in jobs):
        return None
    sign = 1 if PROBLEMS[problem]().lower_is_better else -1
    finite = [job for job in jobs if math.isfinite(done[job].validation)]
    return min(finite, key=lambda job: sign * done[job].validation).lr if finite else None


def cells(problem: str) -> Iterator[tuple[str, float]]:
    """Methods and sparsities of a problem, the most important first."""
    yield "dense", 0.0
    for sparsity in SPARSITIES[problem]:
        for method in MAIN[problem]:
            yield method, sparsity
        if problem not in ("characters-clipped", "fashion-cnn"):
            yield "narrow", sparsity
    if problem == "fashion-cnn":  # behind what the protocol's amendment puts first
        yield from (("narrow", sparsity) for sparsity in SPARSITIES[problem])
    yield from EXTRA.get(problem, [])


def todo(problems: list[str], done: dict[Job, Result]) -> Iterator[Job]:
    """The missing runs, method by method: all rates, then the seeds at the best of them."""
    for problem in problems:
        for method, sparsity in cells(problem):
            for lr in RATES[problem]:
                job = Job(problem, method, sparsity, lr, 0)
                if job not in done:
                    yield job
            best = best_rate(done, problem, method, sparsity)
            if best is not None:
                for seed in FINAL_SEEDS:
                    job = Job(problem, method, sparsity, best, seed)
                    if job not in done:
                        yield job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=["characters"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=HERE / "runs.csv")
    parser.add_argument(
        "--known", type=Path, default=None, help="CSV file of further runs to skip"
    )
    args = parser.parse_args()
    done = read(args.out) | (read(args.known) if args.known else {})
    deadline = time.monotonic() + 60 * args.minutes
    context = multiprocessing.get_context("spawn")
    running: dict[Future[Result], Job] = {}
    longest: list[float] = [30.0]
    with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
        while True:
            busy = set(running.values())
            for job in todo(args.problems, done):
                if len(running) >= args.workers or time.monotonic() + mean(longest) > deadline:
                    break
                if job not in busy:
                    running[pool.submit(run, job)] = job
                    busy.add(job)
            if not running:
                break
            left = max(0.0, deadline - time.monotonic())
            finished, _ = wait(running, left, return_when=FIRST_COMPLETED)
            if not finished:
                break  # out of time: unfinished runs are lost
            for future in finished:
                result = future.result()
                done[running.pop(future)] = result
                longest.append(result.seconds)
                rows.append(args.out, asdict(result))
                print(result, flush=True)
        for process in list(pool._processes.values()):
            process.kill()


if __name__ == "__main__":
    main()
