"""Latency of sparse networks in dirprune's engine and in dense runtimes, in one process.

Outputs are compared first. Every runtime gets the same network, so dense runtimes multiply by its
zeros. Weights and the positions of the zeros are random (see ``sparse_networks.py``); the latency
depends only on their number.

    python benchmarks/engine.py [--only NAME ...] [--threads 1 2] [--rounds 15] [--json FILE.json]

With ``--folder`` the networks' files are kept, so that a later run does not write them again.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import nn

from dirprune.bench import benchmark
from dirprune.deploy import Engine, save
from dirprune.models import build
from machine import interleaved, quartiles, write
from sparse_networks import masked, paper_resnet50


class Case(NamedTuple):
    """A network to measure, the shape of one input, and the batch sizes."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]


def cifar(name: str, zeros: float) -> Case:
    """One of the paper's networks for CIFAR, with the same share of zeros in every layer."""

    def make() -> nn.Module:
        return masked(build(name, num_classes=10, channels=3, size=(32, 32)), lambda *_: zeros)

    return Case(make, (3, 32, 32), (1, 128) if name == "vgg16" else (1, 16))


def mobile() -> nn.Module:
    """MobileNetV2 with 90 % zeros in its 1x1 convolutions; the other layers are dense."""
    net = torchvision.models.mobilenet_v2(weights=None)
    return masked(net, lambda _, p: 0.9 if p.dim() == 4 and p.shape[2:] == (1, 1) else 0.0)


def dense(name: str) -> Case:
    """A network of torchvision without zeros."""

    def make() -> nn.Module:
        return masked(torchvision.models.get_model(name, weights=None), lambda *_: 0.0)

    return Case(make, (3, 224, 224), (1, 16))


def encoder(zeros: float) -> Case:
    """Twelve layers as in BERT-base on 128 places, with the same share of zeros in every layer."""

    def make() -> nn.Module:
        block = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
        net = nn.TransformerEncoder(block, 12, enable_nested_tensor=False)
        return masked(net, lambda *_: zeros)

    return Case(make, (128, 768), (1, 8))


def layer(channels: int, side: int, zeros: float) -> Case:
    """A single 3x3 convolution."""

    def make() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        return masked(net, lambda *_: zeros)

    return Case(make, (channels, side, side), (1, 10))


CASES = {
    "resnet50": Case(paper_resnet50, (3, 224, 224), (1, 16)),
    **{f"vgg16 {zeros:.0%}": cifar("vgg16", zeros) for zeros in (0.9, 0.97)},
    **{f"wrn28x10 {zeros:.0%}": cifar("wrn28x10", zeros) for zeros in (0.9, 0.97)},
    "mobilenet_v2": Case(mobile, (3, 224, 224), (1, 16)),
    **{f"dense {n}": dense(n) for n in ("mobilenet_v2", "resnet18", "convnext_tiny", "resnet50")},
    **{f"bert {zeros:.0%}": encoder(zeros) for zeros in (0.9, 0.95)},
    **{
        f"3x3 {channels}@{side} {zeros:.0%}": layer(channels, side, zeros)
        for channels, side in ((64, 56), (128, 28), (256, 14), (512, 7))
        for zeros in (0.7, 0.8, 0.9, 0.95)
    },
}


def dense_peak(threads: int) -> list[float]:
    """Quartiles of the GFLOP/s of a large dense product in torch: the peak of this machine."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, 1536, 1536)
    [times] = interleaved({"gemm": lambda: a @ b}, rounds=9).values()
    return quartiles([2e-9 * 1536**3 / t for t in times])


def saved(name: str, folder: Path) -> Path:
    """The file of a network, which is written if it is not there."""
    path = folder / f"{name.replace(' ', '-').replace('%', '')}.dpz"
    if not path.exists():
        torch.manual_seed(0)
        folder.mkdir(parents=True, exist_ok=True)
        save(CASES[name].make(), path, torch.randn(2, *CASES[name].shape))
    return path


def layers(path: Path, case: Case, threads: int) -> list[dict[str, object]]:
    """Profile every layer at the smallest batch: kernel, zeros, ms, useful GFLOP/s."""
    x = torch.randn(case.batches[0], *case.shape).numpy()
    return [asdict(row) for row in Engine(path, threads=threads).profile(x).layers]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["resnet50"], help="prefixes of networks")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--against", nargs="+", default=["onnxruntime", "openvino", "torch"])
    parser.add_argument("--batches", nargs="+", type=int, help="instead of the network's own")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options, options.folder or Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure the networks and write the figures."""
    peaks = {str(n): dense_peak(n) for n in options.threads}
    print("GFLOP/s of a dense product:", {n: [round(q) for q in p] for n, p in peaks.items()})
    found = {}
    for name in (n for n in CASES if n.startswith(tuple(options.only))):
        case, path = CASES[name], saved(name, folder)
        figures = benchmark(
            path,
            against=options.against,
            batches=options.batches or case.batches,
            threads=options.threads,
            rounds=options.rounds,
        )
        print(f"\n{name}\n{figures}", flush=True)
        found[name] = asdict(figures) | {"layers": layers(path, case, max(options.threads))}
        write(options.json, {"dense_gflops": peaks, "networks": found})


if __name__ == "__main__":
    main()
