"""Times on a GPU: optimizer steps, a training step, Hessian products, synchronisations.

Candidates of one comparison are interleaved (A B C A B C ...); the medians are reported.
`--device cpu` runs everything at a tiny size, as a smoke test without a GPU.

    python benchmarks/gpu.py [--json FILE] [--sweep]
"""

import argparse
import copy
import json
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dirprune import GRDA, AdamGRDA, SparsityPlan
from dirprune.kernels import triton_step
from dirprune.kernels.rows import Adam, Gradient
from dirprune.landscape import Hessian

Step = Callable[[], object]
Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
BYTES = {
    "SGD": 12,
    "SGD momentum": 20,
    "AdamW": 28,
    "GRDA": 20,
    "GRDA momentum": 28,
    "AdamGRDA": 36,
}
"""Bytes per float32 weight that a step has to read or write, each once."""


class Clock:
    """Times calls on a device that works asynchronously."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished all its work."""
        if self.cuda:
            torch.cuda.synchronize()

    def once(self, call: Step, repeats: int) -> tuple[float, float]:
        """Return the milliseconds until a call has finished on the device and until it returns."""
        self.wait()
        begun = time.perf_counter()
        for _ in range(repeats):
            call()
        returned = time.perf_counter()
        self.wait()
        done = time.perf_counter()
        return 1e3 * (done - begun) / repeats, 1e3 * (returned - begun) / repeats

    def compare(self, calls: dict[str, Step], repeats: int, rounds: int) -> dict[str, Any]:
        """Return the medians of interleaved calls."""
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        repeats_of = {}
        for name, call in calls.items():
            self.once(call, min(3, repeats))
            ms, _ = self.once(call, 1)
            repeats_of[name] = min(repeats, max(1, int(40 / ms)))  # slow calls are repeated less
        for _ in range(rounds):
            for name, call in calls.items():
                found[name].append(self.once(call, repeats_of[name]))
        return {
            name: {
                "ms": round(statistics.median(done for done, _ in times), 4),
                "ms least": round(min(done for done, _ in times), 4),
                "host ms": round(statistics.median(host for _, host in times), 4),
            }
            for name, times in found.items()
        }


def parameters_of(model: nn.Module, device: str) -> list[nn.Parameter]:
    generator = torch.Generator(device).manual_seed(0)
    found = [nn.Parameter(p.detach().to(device, copy=True)) for p in model.parameters()]
    for p in found:
        p.grad = torch.randn(p.shape, device=device, generator=generator) * 1e-3
    return found


def optimizer_steps(model: nn.Module, device: str) -> dict[str, Step]:
    """The step functions of all optimizers, each with its own copy of the parameters."""

    def of(factory: Callable[[list[nn.Parameter]], Any]) -> Step:
        return factory(parameters_of(model, device)).step

    sgd, lr = torch.optim.SGD, 1e-3
    calls: dict[str, Step] = {
        "SGD fused": of(lambda p: sgd(p, lr=lr, fused=True)),
        "SGD momentum fused": of(lambda p: sgd(p, lr=lr, momentum=0.9, fused=True)),
        "SGD momentum foreach": of(lambda p: sgd(p, lr=lr, momentum=0.9, foreach=True)),
        "AdamW fused": of(lambda p: torch.optim.AdamW(p, lr=lr, fused=True)),
        "GRDA": of(lambda p: GRDA(p, lr=lr)),
        "GRDA momentum": of(lambda p: GRDA(p, lr=lr, momentum=0.9)),
        "GRDA foreach": of(lambda p: GRDA(p, lr=lr, foreach=True)),
    }
    plan = lambda: SparsityPlan(0.9, steps=1000, end=0.75)  # noqa: E731
    calls["GRDA momentum p=2"] = of(lambda p: GRDA(p, lr=lr, momentum=0.9, power=2.0))
    calls["AdamGRDA"] = of(lambda p: AdamGRDA(p, lr=lr, c=1e-3))
    calls["AdamGRDA p=2"] = of(lambda p: AdamGRDA(p, lr=lr, c=1e-3, power=2.0))
    calls["GRDA momentum p=2 plan"] = of(
        lambda p: GRDA(p, lr=lr, momentum=0.9, power=2.0, plan=plan())
    )
    calls["AdamGRDA p=2 plan"] = of(lambda p: AdamGRDA(p, lr=lr, power=2.0, plan=plan()))
    done = SparsityPlan(0.9, steps=1000, end=0.75)
    done.step = 900
    calls["GRDA momentum p=2 plan, at its end"] = of(
        lambda p: GRDA(p, lr=lr, momentum=0.9, power=2.0, plan=done)
    )
    return calls


def kernel_steps(model: nn.Module, device: str) -> dict[str, Step]:
    """The launches of the Triton kernels alone, without the rest of the optimizer's step."""

    def of(moments: int, rule: Any, power: float) -> Step:
        rows = [
            (p, p.detach().clone(), p.grad, *(torch.zeros_like(p.grad) for _ in range(moments)),
             *[None] * (2 - moments))
            for p in parameters_of(model, device)
        ]  # fmt: skip
        return lambda: triton_step.step(rows, rule, 1e-3, 1e-3, power)

    gradient, momentum = Gradient(1e-6), Gradient(1e-6, 0.9)
    adam = Adam(1e-6, 10)
    calls = {f"GRDA p={p:g}": of(0, gradient, p) for p in (1.0, 2.0)}
    calls |= {f"GRDA momentum p={p:g}": of(1, momentum, p) for p in (1.0, 2.0, 3.0, 1.5)}
    return calls | {f"AdamGRDA p={p:g}": of(2, adam, p) for p in (1.0, 2.0)}


def captured(call: Step) -> Step:
    """Capture ten calls in a CUDA graph; return its replay."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    return graph.replay


def sweep(model: nn.Module, clock: Clock) -> dict[str, Any]:
    """Time of the kernels alone (in CUDA graphs) for several block sizes and numbers of warps."""
    module: Any = triton_step.kernels()
    found = {}
    chosen = module.BLOCK, module.WARPS
    for block, warps in ((1024, 4), (1024, 8), (2048, 4), (2048, 8), (4096, 8)):
        module.BLOCK, module.WARPS = block, warps
        triton_step._TABLES.clear()
        steps = kernel_steps(model, "cuda")
        calls = {name: captured(steps[name]) for name in ("GRDA p=1", "GRDA momentum p=2")}
        times = clock.compare(calls, 5, 3)
        found[f"{block} / {warps}"] = {n: round(t["ms"] / 10, 4) for n, t in times.items()}
    module.BLOCK, module.WARPS = chosen
    triton_step._TABLES.clear()
    return found


def bandwidth(clock: Clock, device: str) -> float:
    """TB/s of a copy on the device, bytes read and written."""
    a = torch.empty((1 << 30) if clock.cuda else 1 << 20, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    ms = clock.compare({"copy": lambda: b.copy_(a)}, 5, 5)["copy"]["ms"]
    return 2 * a.numel() / ms / 1e9


def training_steps(
    model: nn.Module, device: str, batch: int, size: int, optimizers: dict[str, Factory]
) -> dict[str, Step]:
    """Complete training steps in bfloat16 and channels-last format, one per optimizer."""
    x = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), device=device)

    def of(factory: Factory) -> Step:
        net = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
        optimizer = factory(list(net.parameters()))

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()

        return step

    return {name: of(factory) for name, factory in optimizers.items()}


MOMENTUM = {"lr": 1e-3, "momentum": 0.9}
ORDINARY: dict[str, Factory] = {
    "SGD momentum": lambda p: torch.optim.SGD(p, **MOMENTUM),
    "SGD momentum fused": lambda p: torch.optim.SGD(p, fused=True, **MOMENTUM),
    "GRDA momentum": lambda p: GRDA(p, **MOMENTUM),
    "GRDA": lambda p: GRDA(p, lr=1e-3),
}


def plan_of_weights(parameters: list[nn.Parameter], step: int) -> GRDA:
    """A plan of all tensors with two or more dimensions, with some of its steps done."""
    plan = SparsityPlan(0.9, steps=1000, end=0.75)
    plan.step = step
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": weights, "plan": plan}, {"params": others, "c": 0.0}]
    return GRDA(groups, power=2.0, **MOMENTUM)


PLANNED: dict[str, Factory] = {
    "no plan": lambda p: GRDA(p, power=2.0, **MOMENTUM),
    "plan of the weights": lambda p: plan_of_weights(p, 0),
    "plan of the weights, at its end": lambda p: plan_of_weights(p, 800),
    "plan of all parameters": lambda p: GRDA(
        p, power=2.0, plan=SparsityPlan(0.9, steps=1000, end=0.75), **MOMENTUM
    ),
}


def plan_cost(
    model: nn.Module, clock: Clock, device: str, batch: int, size: int
) -> dict[str, Any]:
    """Complete training steps with and without a plan, means over many of its periods."""
    calls = training_steps(model, device, batch, size, PLANNED)
    number, rounds = (56, 3) if clock.cuda else (2, 1)
    for call in calls.values():
        clock.once(call, number // 2)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(clock.once(call, number)[0])
    return {
        name: {"ms": round(statistics.median(ms), 4), "ms least": round(min(ms), 4)}
        for name, ms in times.items()
    }


def curvature(clock: Clock, device: str, images: int, size: int, rounds: int) -> dict[str, Any]:
    """Compare a Hessian product of ResNet-18 with a gradient, in float32 without TF32."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).to(device).eval()
    x = torch.randn(images, 3, size, size, device=device)
    y = torch.randint(10, (images,), device=device)
    v = torch.randn(sum(p.numel() for p in model.parameters()), device=device)
    parameters = list(model.parameters())
    flags = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False

    def gradient() -> object:
        return torch.autograd.grad(F.cross_entropy(model(x), y), parameters)

    calls: dict[str, Step] = {"gradient": gradient}
    found: dict[str, Any] = {"images": images, "size": size}
    products = {}
    for mode in ("graph", "reverse-over-reverse", "auto"):
        hessian = Hessian(model, F.cross_entropy, [(x, y)], mode=mode)
        try:
            products[mode] = hessian(v)
        except Exception as error:  # a refused mode is a result
            found[f"{mode} refused"] = str(error)[:200]
        else:
            calls[mode] = lambda hessian=hessian: hessian(v)
    found |= clock.compare(calls, rounds, rounds)
    torch.backends.cudnn.allow_tf32 = flags
    if {"graph", "reverse-over-reverse"} <= products.keys():
        exact = products["reverse-over-reverse"]
        found["difference"] = float((products["graph"] - exact).norm() / exact.norm())
    for mode in products:
        found[f"{mode} in gradients"] = round(found[mode]["ms"] / found["gradient"]["ms"], 2)
    return found


def synchronisations(device: str) -> dict[str, float]:
    """Count the synchronisations with the device per step of a training run on the digits."""
    from dirprune.train.config import TrainConfig
    from dirprune.train.display import Displays
    from dirprune.train.loop import train

    counts = {}
    for epochs in (2, 4):
        config = TrainConfig(epochs=epochs, batch_size=16, device=device)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            train(config, Path(folder) / "run", display=Displays())
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        counts[epochs] = sum("synchroniz" in str(w.message) for w in seen)
    steps = 2 * -(-1437 // 16)
    return {"in a step, evaluation included": round((counts[4] - counts[2]) / steps, 3)}


def environment(device: str) -> dict[str, Any]:
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%d"),
    }
    try:
        import triton

        found["triton"] = triton.__version__
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        found["driver"] = found["driver"].strip()
    except (ImportError, OSError, subprocess.CalledProcessError):
        pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--sweep", action="store_true", help="time the kernels by block size")
    args = parser.parse_args()
    device, clock = args.device, Clock(args.device)
    cuda = clock.cuda
    model = torchvision.models.resnet50() if cuda else torchvision.models.squeezenet1_1()
    numel = sum(p.numel() for p in model.parameters())
    repeats, rounds = (20, 11) if cuda else (1, 1)
    record: dict[str, Any] = {**environment(device), "parameters": numel}

    def note(name: str, measure: Callable[[], Any]) -> None:
        begun = time.perf_counter()
        try:
            record[name] = measure()
        except Exception as error:  # continue with the other measurements
            record[name] = f"{type(error).__name__}: {error}"[:500]
        print(
            f"{name} ({time.perf_counter() - begun:.1f} s): {json.dumps(record[name], indent=1)}"
        )
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n")

    note("copy, TB/s", lambda: bandwidth(clock, device))
    note("step", lambda: clock.compare(optimizer_steps(model, device), repeats, rounds))
    if cuda:
        note("kernel", lambda: clock.compare(kernel_steps(model, device), repeats, rounds))
        note(
            "kernel without host", lambda: without_host(model, clock, record["copy, TB/s"], numel)
        )
        if args.sweep:
            note("kernel by block / warps", lambda: sweep(model, clock))
    batch, size = (128, 224) if cuda else (2, 64)
    note(
        "training step",
        lambda: clock.compare(
            training_steps(model, device, batch, size, ORDINARY), *((10, 7) if cuda else (1, 1))
        ),
    )
    note("plan", lambda: plan_cost(model, clock, device, batch, size))
    note("curvature", lambda: curvature(clock, device, *((256, 64, 4) if cuda else (2, 32, 1))))
    note("synchronisations", lambda: synchronisations(device))


def without_host(model: nn.Module, clock: Clock, limit: Any, numel: int) -> dict[str, Any]:
    """Time of the kernels in CUDA graphs, and their bandwidth relative to that of a copy."""
    calls = {name: captured(call) for name, call in kernel_steps(model, "cuda").items()}
    found = {}
    for name, times in clock.compare(calls, 5, 5).items():
        ms = times["ms"] / 10
        rate = BYTES[name.split(" p=")[0]] * numel / ms / 1e9
        found[name] = {
            "ms": round(ms, 4),
            "TB/s": round(rate, 3),
            "of a copy": round(rate / limit, 3),
        }
    return found


if __name__ == "__main__":
    main()
