"""Products with the Hessian beside a gradient, and ten eigenpairs beside other libraries.

    python benchmarks/hessian.py products [--json results/hessian/products.json]
    python benchmarks/hessian.py eigenpairs [--json results/hessian/eigenpairs.json]

Products: a batch of random images of CIFAR's size; the gradient in evaluation mode in both memory
formats; products by ``Hessian``, with and without what it keeps between them, and by autograd's
double backward in both formats. Eigenpairs: the ten largest, to one residual, recomputed here for
everybody with products in float64. All in one process, in turn, after their outputs were compared.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.landscape import Hessian, top_eigenpairs
from dirprune.train.models import build_model
from machine import interleaved, quartiles, ratios, write

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
NETWORKS = {"resnet20": ("resnet20", 1.0), "vgg16_bn, width .25": ("vgg16_bn", 0.25)}


def network(name: str) -> nn.Module:
    """An untrained network with statistics from random images."""
    torch.manual_seed(0)
    kind, width = NETWORKS[name]
    model = build_model(kind, num_classes=10, channels=3, size=(32, 32), width=width)
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
    """Relative, from autograd in float64, by tens of samples.

    The Hessian of a network with ReLU jumps: where rounding decides which side of zero, or which
    maximum of a window, a sample is on, its share of the product is another one. That is seen in
    some tens and not in most.
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
    # Default options but for the memory: what is kept between products, and nothing.
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
    figures = {
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
    """Processor time in turn: what one thread takes when others keep the machine busy."""
    times: dict[str, list[float]] = {title: [] for title in candidates}
    for _ in range(rounds):
        for title, call in candidates.items():
            start = time.process_time()
            call()
            times[title].append(time.process_time() - start)
    return times


def eigenpairs(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ours, curvlinops with scipy, hessian-eigenthings; tolerances set to one residual."""
    model = network(name)
    x, y = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    data = [(x, y)]
    counts: dict[str, int] = {}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def ours() -> tuple[Tensor, Tensor]:
        pairs = top_eigenpairs(Hessian(model, F.cross_entropy, data), 10, tol=options.tol)
        counts["dirprune"] = pairs.products
        return pairs.values, pairs.vectors

    def with_curvlinops() -> tuple[Tensor, Tensor]:
        import numpy as np
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import LinearOperator, eigsh

        weights = list(model.parameters())
        op = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), weights, data, check_deterministic=False
        )
        linear = op.to_scipy()
        calls = 0

        def multiply(v: Any) -> Any:
            nonlocal calls
            calls += 1
            return linear @ v.astype(np.float32).reshape(-1)

        counted = LinearOperator(linear.shape, matvec=multiply, dtype=np.float32)
        values, vectors = eigsh(counted, k=10, which="LA", tol=options.tol)
        counts["curvlinops + eigsh"] = calls
        return torch.from_numpy(values), torch.from_numpy(vectors.T.copy())

    def with_eigenthings() -> tuple[Tensor, Tensor]:
        from hessian_eigenthings import algorithms
        from hessian_eigenthings.loss_fns import supervised_loss
        from hessian_eigenthings.operators import HessianOperator

        op = HessianOperator(model, data, supervised_loss(nn.CrossEntropyLoss()))
        steps = 20  # it does not restart: its user doubles the steps until all have converged
        while True:
            result = algorithms.lanczos(
                op, k=10, which="LA", tol=options.tol, max_iter=steps, reorthogonalize=True, seed=0
            )
            if bool(result.converged.all()):
                break
            steps = 2 * steps
        counts["hessian-eigenthings"] = result.iterations
        return result.eigenvalues, result.eigenvectors

    everybody = {
        "dirprune": ours,
        "curvlinops + eigsh": with_curvlinops,
        "hessian-eigenthings": with_eigenthings,
    }
    exact = Hessian(model, F.cross_entropy, data, dtype=torch.float64)
    figures: dict[str, Any] = {}
    print(name)
    for title in options.only or everybody:
        clock = time.process_time if options.cpu else time.perf_counter
        start = clock()
        values, vectors = everybody[title]()
        seconds = clock() - start
        rows = vectors.double() if vectors.shape[0] == 10 else vectors.T.double()
        residuals = [
            float((exact(row / row.norm()) - theta * row / row.norm()).norm())
            for row, theta in zip(rows, values.double())
        ]
        found[title] = (values, rows)
        worst = max(r / abs(float(theta)) for r, theta in zip(residuals, values))
        figures[title] = {
            "seconds": seconds,
            "products": counts[title],
            "worst relative residual": worst,
            "eigenvalues": sorted(values.tolist(), reverse=True),
        }
        print(f"  {title:22s} {seconds:8.1f} s, {counts[title]} products, residual {worst:.1e}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["products", "eigenpairs"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--only", nargs="+", help="of the libraries that find eigenpairs")
    parser.add_argument("--double-backward", action="store_true", help="time autograd's too")
    parser.add_argument("--cpu", action="store_true", help="processor time, not time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measure = products if options.what == "products" else eigenpairs
    figures: dict[str, Any] = {"batch": options.batch, "load": os.getloadavg()}
    figures["clock"] = "processor" if options.cpu else "wall"
    if options.what == "eigenpairs":
        figures["tol"] = options.tol
    for name in options.networks:
        figures[name] = measure(name, options)
    write(options.json, figures)


if __name__ == "__main__":
    main()
