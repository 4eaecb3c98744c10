"""Time and memory of a step of GRDA, SGD, the paper authors' implementation and torch.compile.

All candidates run interleaved in one process (A B C A B C ...), on copies of the same weights and
gradients. The outputs of the gRDA variants are compared first. The table shows medians over the
rounds, and quartiles of the ratio to ``torch.optim.SGD(momentum=0.9, fused=True)`` of the same
round, so that a drift of the machine's speed cancels. Run it on an otherwise idle machine:

    python benchmarks/step.py [--rounds 101] [--compile] [--json results/step/FILE.json]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dirprune import GRDA, AdamGRDA
from dirprune.models import build
from machine import interleaved, quartiles, ratios, write

LR, C, MU = 0.1, 1e-3, 0.6

# Bytes per float32 weight that a step moves if nothing stays in cache between its passes. A tensor
# that is written without being read is counted twice, because its cache lines are fetched first.
BYTES = {
    "SGD momentum, fused": 20,  # read w, d, m; write w, m
    "SGD, fused": 12,  # read w, d; write w
    "SGD momentum, foreach=False": 32,  # m *= beta; m += d; w -= lr m
    "GRDA": 16,  # one pass, w past the caches: read v, d; write v, w
    "GRDA fused=False": 24,  # v -= lr d; w = S(v)
    "GRDA foreach": 60,  # v -= lr d; w = v; clamp twice; negate; add v
    "GRDA momentum": 24,  # one pass, w past the caches: read v, d, m; write v, m, w
    "GRDA momentum fused=False": 44,  # m *= beta; m += d; v -= lr m; w = S(v)
    "GRDA power 2": 16,  # as GRDA
    "AdamW": 80,  # m; s *= beta; s += d d; sqrt(s); divide; add eps; w
    "AdamGRDA": 92,  # as AdamW with v for w; then w = T(v)
    "authors' way": 76,  # v -= lr d; sign; abs; subtract; clamp; multiply
    "GRDA compiled": 20,  # one pass: read v, d; write v, w
}
LEAST = 16
"""Bytes for one weight in a single pass: the limit of any gRDA step."""


def authors_way(
    weights: list[nn.Parameter], accumulators: list[Tensor], counters: list[tuple[Tensor, Tensor]]
) -> None:
    """Update as the authors do: a loop over tensors, with temporaries and counters as tensors."""
    for w, v, (n, g) in zip(weights, accumulators, counters):
        n.add_(1)
        v.add_(w.grad, alpha=-LR)  # type: ignore[arg-type]
        g.add_(_threshold(n) - _threshold(n - 1))
        excess = torch.abs(v) - g.to(v.device)
        w.data = torch.sign(v) * excess.clamp(min=0)


def _threshold(n: Tensor) -> Tensor:
    return C * torch.pow(torch.tensor(LR), 0.5 + MU) * torch.pow(n, MU)


def copies(weights: list[Tensor], gradients: list[Tensor]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(w.clone()) for w in weights]
    for p, d in zip(parameters, gradients):
        p.grad = d.clone()
    return parameters


def candidates(
    weights: list[Tensor], gradients: list[Tensor], with_compile: bool
) -> dict[str, tuple[list[nn.Parameter], Callable[[], object]]]:
    def of(factory: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> tuple:
        parameters = copies(weights, gradients)
        return parameters, factory(parameters).step

    table = {
        "SGD momentum, fused": of(lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, fused=True)),
        "SGD, fused": of(lambda p: torch.optim.SGD(p, lr=LR, fused=True)),
        "SGD momentum, foreach=False": of(
            lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, foreach=False)
        ),
        "GRDA": of(lambda p: GRDA(p, lr=LR, c=C, mu=MU, fused=True)),
        "GRDA fused=False": of(lambda p: GRDA(p, lr=LR, c=C, mu=MU, fused=False)),
        "GRDA foreach": of(lambda p: GRDA(p, lr=LR, c=C, mu=MU, foreach=True)),
        "GRDA momentum": of(lambda p: GRDA(p, lr=LR, c=C, mu=MU, momentum=0.9, fused=True)),
        "GRDA momentum fused=False": of(
            lambda p: GRDA(p, lr=LR, c=C, mu=MU, momentum=0.9, fused=False)
        ),
    }
    table["GRDA power 2"] = of(lambda p: GRDA(p, lr=LR, c=C, mu=MU, power=2.0))
    table["AdamW"] = of(lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.0, foreach=False))
    table["AdamGRDA"] = of(lambda p: AdamGRDA(p, lr=1e-3, c=C, mu=MU, power=2.0))
    parameters = copies(weights, gradients)
    state = [p.detach().clone() for p in parameters]
    counters = [(torch.zeros(1), torch.zeros(1)) for _ in parameters]
    table["authors' way"] = parameters, lambda: authors_way(parameters, state, counters)
    if with_compile:
        table["GRDA compiled"] = of(lambda p: _Compiled(GRDA(p, lr=LR, c=C, mu=MU)))  # type: ignore[arg-type,return-value]
    return table


class _Compiled:
    def __init__(self, optimizer: GRDA) -> None:
        self.step = torch.compile(optimizer.step)


def measure(shapes: list[torch.Size], rounds: int, with_compile: bool) -> dict[str, dict]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(s, generator=generator) * 0.05 for s in shapes]
    gradients = [torch.randn(s, generator=generator) * 1e-3 for s in shapes]
    table = candidates(weights, gradients, with_compile)
    for _, step in table.values():
        step()
    for name in ("GRDA fused=False", "GRDA foreach", "GRDA compiled", "authors' way"):
        if name in table:
            for ours, other in zip(table["GRDA"][0], table[name][0]):
                torch.testing.assert_close(ours, other, atol=1e-7, rtol=1e-6)
    times = interleaved({name: step for name, (_, step) in table.items()}, rounds, warmup=5)
    base = times["SGD momentum, fused"]
    return {
        name: {
            "ms": quartiles(t, 1e3),
            "ratio": ratios(t, base),
            "allocated_bytes": allocated(table[name][1]),
            "bytes_per_weight": BYTES[name],
        }
        for name, t in times.items()
    }


def allocated(step: Callable[[], object]) -> int:
    """Peak of the tensor memory during one step in bytes, minus the memory before the step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        step()
    now = peak = 0
    for event in sorted(_memory_events(prof), key=lambda e: e[0]):
        now += event[1]
        peak = max(peak, now)
    return peak


def _memory_events(prof: profile) -> list[tuple[int, int]]:
    results = prof.profiler.kineto_results  # type: ignore[union-attr]
    return [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]


def bandwidth() -> float:
    """GB/s of ``a += b`` on tensors larger than the caches (two reads, a write), median of 15."""
    a, b = torch.randn(1 << 26), torch.randn(1 << 26)
    times = []
    for _ in range(15):
        start = time.perf_counter()
        a.add_(b)
        times.append(time.perf_counter() - start)
    return 3 * a.numel() * 4 / statistics.median(times) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also torch.compile(step)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    nets = {
        "VGG16": build("vgg16", num_classes=10, channels=3, size=(32, 32)),
        "ResNet-50": torchvision.models.resnet50(),
    }
    report: dict[str, Any] = {
        "rounds": options.rounds,
        "bandwidth_gb_per_s": bandwidth(),
        "nets": {},
    }
    print(f"{options.threads} threads, memory {report['bandwidth_gb_per_s']:.1f} GB/s")
    for net, model in nets.items():
        shapes = [p.shape for p in model.parameters()]
        elements = sum(s.numel() for s in shapes)
        figures = measure(shapes, options.rounds, options.compile)
        report["nets"][net] = {"parameters": elements, "tensors": len(shapes), **figures}
        limit = LEAST * elements / report["bandwidth_gb_per_s"] / 1e6
        print(
            f"\n{net}: {elements:,} parameters in {len(shapes)} tensors, float32; limit of one "
            f"pass at {LEAST} bytes a weight {limit:.2f} ms"
        )
        print(
            f"{'':28}{'ms (quartiles)':>21}{'x fused SGD momentum':>25}"
            f"{'bytes':>6}{'GB/s':>6}{'x limit':>8}{'allocated':>14}"
        )
        for name, f in figures.items():
            print(
                f"{name:28}{f['ms'][1]:7.2f} ({f['ms'][0]:5.2f}-{f['ms'][2]:5.2f})"
                f"{f['ratio'][1]:11.2f} ({f['ratio'][0]:5.2f}-{f['ratio'][2]:5.2f})"
                f"{BYTES[name]:6}{BYTES[name] * elements / f['ms'][1] / 1e6:6.1f}"
                f"{f['ms'][1] / limit:8.2f}{f['allocated_bytes'] / 2**20:10.2f} MiB"
            )
    write(options.json, report)


if __name__ == "__main__":
    main()
