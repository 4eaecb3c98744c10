"""Time of Hessian products relative to a gradient, and of ten eigenpairs in several libraries.

    python benchmarks/hessian.py products [--json results/hessian/products.json]
    python benchmarks/hessian.py eigenpairs [--json results/hessian/eigenpairs.json]

Products: a batch of random images of CIFAR's size; the gradient in evaluation mode in both memory
formats; products by ``Hessian``, with and without its cache, and by autograd's double backward in
both formats. Eigenpairs: the ten largest. Every library has to reach the residual that eigsh
reaches, which is recomputed here. hessian-eigenthings runs with the smallest sufficient number of
steps, and with its default number, doubled until it suffices. All calls run in one process and
products are interleaved; outputs are compared.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.landscape import Hessian, top_eigenpairs
from dirprune.models import build
from machine import interleaved, quartiles, ratios, write

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
NETWORKS = {"resnet20": ("resnet20", 1.0), "vgg16_bn, width .25": ("vgg16_bn", 0.25)}


def network(name: str, smooth: bool = False) -> nn.Module:
    """An untrained network with BatchNorm statistics of random images.

    Args:
        name: A key of ``NETWORKS``.
        smooth: Replace ReLU by SiLU and maximum by average pooling.
    """
    torch.manual_seed(0)
    kind, width = NETWORKS[name]
    model = build(kind, num_classes=10, channels=3, size=(32, 32), width=width)
    for module in list(model.modules()) if smooth else []:
        for child, part in module.named_children():
            if isinstance(part, nn.ReLU):
                setattr(module, child, nn.SiLU())
            elif isinstance(part, nn.MaxPool2d):
                setattr(module, child, nn.AvgPool2d(part.kernel_size, part.stride, part.padding))
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(32, 3, 32, 32))
    return model.eval()


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def double_backward(model: nn.Module, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    weights = list(model.parameters())
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), weights, create_graph=True)
    parts = [p.view_as(w) for p, w in zip(v.split([w.numel() for w in weights]), weights)]
    return flat(torch.autograd.grad(slopes, weights, parts))


def differences(model: nn.Module, x: Tensor, y: Tensor, v: Tensor) -> list[float]:
    """Relative differences from autograd in float64, for groups of ten samples.

    The Hessian of a network with ReLU is discontinuous: rounding may decide whether a ReLU's input
    is positive, or which element of a window is the maximum, and the product changes. This affects
    a few groups of samples; most are unaffected.
    """
    found = []
    for images, labels in list(zip(x.split(10), y.split(10)))[:9]:
        data = [(images, labels)]
        exact = Hessian(
            model, F.cross_entropy, data, dtype=torch.float64, mode="reverse-over-reverse"
        )(v.double())
        ours = Hessian(model, F.cross_entropy, data)(v)
        found.append(float((ours.double() - exact).norm() / exact.norm()))
    return found


def products(name: str, options: argparse.Namespace) -> dict[str, Any]:
    model = network(name)
    x, y = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    v = torch.randn(sum(w.numel() for w in model.parameters()))
    # Default options except for the cache: larger than needed, and none.
    ours = {
        "product, kept": Hessian(model, F.cross_entropy, [(x, y)], keep=8e9),
        "product, nothing kept": Hessian(model, F.cross_entropy, [(x, y)], keep=0),
    }
    candidates: dict[str, Callable[[], Tensor]] = {}
    for title, layout in FORMATS.items():
        copy = network(name).to(memory_format=layout)
        images = x.contiguous(memory_format=layout)

        def gradient(copy: nn.Module = copy, images: Tensor = images) -> Tensor:
            return flat(
                torch.autograd.grad(F.cross_entropy(copy(images), y), list(copy.parameters()))
            )

        def twice(copy: nn.Module = copy, images: Tensor = images) -> Tensor:
            return double_backward(copy, images, y, v)

        candidates[f"gradient, {title}"] = gradient
        if options.double_backward:
            candidates[f"double backward, {title}"] = twice
    for title, hessian in ours.items():
        candidates[title] = lambda hessian=hessian: hessian(v)
    errors = differences(model, x, y, v)
    if not statistics.median(errors) < 1e-5:
        raise ArithmeticError(f"the products differ: {errors}")
    for call in candidates.values():
        call()
    if options.cpu:
        times = cpu_seconds(candidates, options.rounds)
    else:
        times = interleaved(candidates, options.rounds, warmup=0)
    medians = {title: quartiles(t)[1] for title, t in times.items()}
    fastest = min((t for t in times if t.startswith("gradient")), key=lambda t: medians[t])
    figures: dict[str, Any] = {
        "ms": {title: quartiles(t, 1e3) for title, t in times.items()},
        "over the fastest gradient": {t: ratios(times[t], times[fastest]) for t in times},
        "fastest gradient": fastest,
        "difference from float64 by tens of samples": errors,
        "timings of the trial": {t: h.timings for t, h in ours.items()},
    }
    print(name)
    for title, (low, middle, high) in figures["over the fastest gradient"].items():
        ms = figures["ms"][title][1]
        print(f"  {title:32s} {ms:8.0f} ms  {middle:5.2f} ({low:.2f}-{high:.2f})", flush=True)
    return figures


def cpu_seconds(
    candidates: dict[str, Callable[[], Tensor]], rounds: int
) -> dict[str, list[float]]:
    """Processor time of interleaved calls, for one thread on a busy machine."""
    times: dict[str, list[float]] = {title: [] for title in candidates}
    for _ in range(rounds):
        for title, call in candidates.items():
            start = time.process_time()
            call()
            times[title].append(time.process_time() - start)
    return times


class Timed:
    """A product that records the seconds of each call."""

    def __init__(self, multiply: Callable[[Any], Any], clock: Callable[[], float]) -> None:
        self._multiply, self._clock = multiply, clock
        self.seconds: list[float] = []

    def __call__(self, v: Any) -> Any:
        """Multiply."""
        start = self._clock()
        result = self._multiply(v)
        self.seconds.append(self._clock() - start)
        return result


class Found(NamedTuple):
    """Eigenvalues, eigenvectors as rows, and the timed products."""

    values: Tensor
    vectors: Tensor
    multiply: Timed


Clock = Callable[[], float]
Data = list[tuple[Tensor, Tensor]]


def with_dirprune(model: nn.Module, data: Data, tol: float, clock: Clock) -> Found:
    op: Any = Hessian(model, F.cross_entropy, data)
    timed: Any = Timed(op, clock)
    timed.dimension, timed.dtype, timed.device = op.dimension, op.dtype, op.device
    pairs = top_eigenpairs(timed, 10, tol=tol)
    return Found(pairs.values, pairs.vectors, timed)


def with_curvlinops(model: nn.Module, data: Data, tol: float, clock: Clock) -> Found:
    import numpy as np
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    weights = list(model.parameters())
    op = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), weights, data, check_deterministic=False
    )
    linear = op.to_scipy()
    timed = Timed(lambda v: linear @ v.astype(np.float32).reshape(-1), clock)
    start = np.random.default_rng(0).standard_normal(linear.shape[0]).astype(np.float32)
    counted = LinearOperator(linear.shape, matvec=timed, dtype=np.float32)
    values, vectors = eigsh(counted, k=10, which="LA", tol=tol, v0=start)
    timed._multiply = lambda v: op @ v
    order = np.argsort(-values)
    rows = np.ascontiguousarray(vectors.T[order])
    return Found(torch.from_numpy(values[order]), torch.from_numpy(rows), timed)


def with_eigenthings(
    model: nn.Module, data: Data, tol: float, clock: Clock, steps: int | None = None
) -> Found:
    """Take ``steps`` steps; without ``steps``, double the default until the search converges."""
    from hessian_eigenthings import algorithms
    from hessian_eigenthings.loss_fns import supervised_loss
    from hessian_eigenthings.operators import HessianOperator

    op = HessianOperator(model, data, supervised_loss(nn.CrossEntropyLoss()))
    timed = op.matvec = Timed(op.matvec, clock)  # type: ignore[method-assign]
    tried = steps or 20
    while True:
        result = algorithms.lanczos(
            op, k=10, which="LA", max_iter=tried, tol=tol, reorthogonalize=True, seed=0
        )
        if steps or result.converged.all():
            return Found(result.eigenvalues, result.eigenvectors, timed)
        tried *= 2


def fewest_steps(hessian: Hessian, goal: float) -> int:
    """Find the number of steps that hessian-eigenthings needs, which its user has to choose.

    This runs hessian-eigenthings' iteration and start with dirprune's products, untimed.
    """
    from hessian_eigenthings.algorithms.lanczos import lanczos_tridiagonal

    op: Any = SimpleNamespace(matvec=hessian, dtype=hessian.dtype, device=hessian.device)
    start = torch.randn(hessian.dimension, generator=torch.Generator().manual_seed(0))
    found = lanczos_tridiagonal(op, start, 64)
    alphas, betas = found.alphas.double(), found.betas.double()
    for steps in range(11, 64):
        triangle = alphas[:steps].diag() + betas[: steps - 1].diag(1) + betas[: steps - 1].diag(-1)
        values, vectors = torch.linalg.eigh(triangle)
        if bool((betas[steps - 1] * vectors[-1, -10:].abs() <= goal * values[-10:]).all()):
            return steps
    return 64


def worst_residual(
    multiply: Callable[[Tensor], Tensor], found: Found, dtype: torch.dtype
) -> float:
    """The largest residual of the normalised eigenvectors, each relative to its eigenvalue."""
    worst = 0.0
    for row, value in zip(found.vectors.double(), found.values.double()):
        row = row / row.norm()
        off = multiply(row.to(dtype)).double() - value * row
        worst = max(worst, float(off.norm() / value))
    return worst


def eigenpairs(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Find ten eigenpairs with every library, to the residual that eigsh reaches with ``--tol``.

    Each residual is measured with two products: the float32 product that found the pair, which
    shows whether the search converged, and a float64 product of the same network and data. They
    differ where the network has kinks: the sign of a ReLU's input of about 1e-7 depends on
    rounding, so on the order of summation, which differs between libraries and memory formats.
    Such a sign changes the Hessian by far more than rounding does. A network without kinks
    (``--smooth``) has no such cases.
    """
    model = network(name, smooth=options.smooth)
    x, y = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    data = [(x, y)]
    exact = Hessian(model, F.cross_entropy, data, dtype=torch.float64)
    clock = time.process_time if options.cpu else time.perf_counter
    figures: dict[str, Any] = {}

    def run(title: str, search: Callable[..., Found], accuracy: float) -> float:
        start = clock()
        found = search(model, data, accuracy, clock)
        seconds = clock() - start
        calls = list(found.multiply.seconds)
        own = worst_residual(found.multiply, found, torch.float32)
        figures[title] = {
            "seconds": seconds,
            "seconds in the first product, with what it prepares": calls[0],
            "seconds in all others": sum(calls[1:]),
            "products": len(calls),
            "worst relative residual": own,
            "by float64": worst_residual(exact, found, torch.float64),
            "eigenvalues": found.values.tolist(),
        }
        one = 1e3 * statistics.median(calls)
        print(
            f"  {title:34s} {seconds:8.1f} s, {len(calls)} products of {one:.0f} ms, residual "
            f"{own:.1e}, by float64 {figures[title]['by float64']:.1e}",
            flush=True,
        )
        return own

    print(name)
    goal = run("curvlinops + eigsh", with_curvlinops, options.tol)
    run("dirprune", with_dirprune, goal)
    steps = fewest_steps(Hessian(model, F.cross_entropy, data), goal)
    known = partial(with_eigenthings, steps=steps)
    run("hessian-eigenthings, steps known", known, goal)
    run("hessian-eigenthings, steps doubled", with_eigenthings, goal)
    ours = figures["dirprune"]
    for their in figures.values():
        their["seconds over ours"] = their["seconds"] / ours["seconds"]
        apart = [abs(a - b) / a for a, b in zip(ours["eigenvalues"], their["eigenvalues"])]
        their["eigenvalues from ours, relative"] = max(apart)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["products", "eigenpairs"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--smooth", action="store_true", help="networks without ReLU")
    parser.add_argument("--double-backward", action="store_true", help="time double backward too")
    parser.add_argument("--cpu", action="store_true", help="measure processor time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measure = products if options.what == "products" else eigenpairs
    figures: dict[str, Any] = {"batch": options.batch, "load": os.getloadavg()}
    figures["clock"] = "processor" if options.cpu else "wall"
    if options.what == "eigenpairs":
        figures["tol of eigsh"], figures["smooth"] = options.tol, options.smooth
    for name in options.networks:
        figures[name] = measure(name, options)
    write(options.json, figures)


if __name__ == "__main__":
    main()
