"""Every convolutional classifier of torchvision: captured, lowered, run, compared with torch.

With fresh weights of which 90 % are zero, and BatchNorm statistics drawn at random. ``difference``
is the largest one between outputs, over the largest output; ``bytes`` the size of the lossless
file, ``zstd`` that of the same dense tensors after zstandard's level 19, which is slow and left
out above 20 million weights.

A run that was stopped goes on where its file ends.

    python benchmarks/models.py [--only resnet18 vgg11] [--csv results/models/FILE.csv]
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from dirprune.deploy import Engine, save
from dirprune.deploy.file.read import read_file
from dirprune.deploy.graph.fold import fold

FAMILIES = (
    "resnet", "wide_resnet", "resnext", "vgg", "mobilenet", "efficientnet", "densenet",
    "squeezenet", "regnet", "googlenet", "inception", "mnasnet", "shufflenet", "convnext",
)  # fmt: skip
SPARSITY = 0.9
MOST_FOR_ZSTD = 20_000_000


def names() -> list[str]:
    """Torchvision's names of the families, smallest first."""

    def parameters(name: str) -> int:
        weights = models.get_model_weights(name)  # type: ignore[attr-defined]
        return next(iter(weights)).meta["num_params"]

    every = models.list_models(module=models)  # type: ignore[attr-defined]
    return sorted((name for name in every if name.startswith(FAMILIES)), key=parameters)


def network(name: str) -> nn.Module:
    """A sparse network whose BatchNorms all do something."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, **options).eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                # Keep the variance, so that signals neither die nor explode.
                kept = torch.rand_like(p) >= SPARSITY
                p.copy_(torch.where(kept, p / (1 - SPARSITY) ** 0.5, 0.0))
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    return model


@torch.no_grad()
def measure(name: str, folder: Path) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    model = network(name)
    side = 299 if name == "inception_v3" else 224
    path = folder / "model.dpz"
    saved = save(model, path, torch.randn(2, 3, side, side))
    x = torch.randn(3, 3, side, side)
    expected = model(x)
    found = torch.from_numpy(Engine(path, threads=torch.get_num_threads())(x.numpy()))
    graph = read_file(path).graph
    lowered = fold(graph)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "model": name,
        "parameters": parameters,
        "nodes": len(graph.nodes),
        "lowered": len(lowered.nodes),
        "difference": f"{difference(expected, found):.1e}",
        "bytes": saved.bytes,
        "zstd": zstd_bytes(graph.tensors.values()) if parameters <= MOST_FOR_ZSTD else "",
        "dense": saved.dense_bytes,
    }


def zstd_bytes(tensors: Iterable[NDArray[Any]]) -> int:
    """What zstandard alone makes of the dense tensors."""
    dense = b"".join(tensor.tobytes() for tensor in tensors)
    return len(zstandard.ZstdCompressor(level=19, threads=-1).compress(dense))


def difference(expected: Tensor, found: Tensor) -> float:
    """The largest one, over the largest output."""
    return float((expected - found).abs().max() / expected.abs().max())


def earlier(path: Path | None) -> list[dict[str, Any]]:
    """The rows of a run that was stopped."""
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = earlier(options.csv)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or names():
            if name in {row["model"] for row in rows}:
                continue
            rows.append(measure(name, Path(folder)))
            print(rows[-1], file=sys.stderr, flush=True)
            if options.csv:
                options.csv.parent.mkdir(parents=True, exist_ok=True)
                with options.csv.open("w", newline="") as file:
                    table = csv.DictWriter(file, rows[0], lineterminator="\n")
                    table.writeheader()
                    table.writerows(rows)
    worst = max(rows, key=lambda row: float(row["difference"]))
    if float(worst["difference"]) > 1e-4:
        raise SystemExit(f"{worst['model']} differs by {worst['difference']}")


if __name__ == "__main__":
    main()
