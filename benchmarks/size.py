"""Size of a pruned ResNet-50 as a file: ours beside zstandard's and the entropy of what is in it.

The weights are Gaussian, with zeros at random places, as many in each layer as the paper's network
has (its appendix; a CSV file with columns ``resnet50`` and one per network). Trained weights have
more order; these are the hardest case for any compressor.

    python benchmarks/size.py SPARSITIES.csv [--column gRDA_c0.005_mu0.55] [--json FILE.json]
"""

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
import zstandard
from torch import Tensor, nn

from dirprune.deploy import load, save
from machine import write


def network(path: Path, column: str) -> nn.Module:
    """ResNet-50 with the sparsity of every layer as in a table."""
    generator = torch.Generator().manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    with path.open() as file:
        shares = {
            row["resnet50"].removeprefix("module."): row[column] for row in csv.DictReader(file)
        }
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                deviation = (2 / p[0].numel()) ** 0.5
                p.normal_(std=deviation, generator=generator)
                p[torch.rand(p.shape, generator=generator) < shares[name]] = 0
        for tensor in model.state_dict().values():
            if tensor.dim() == 1:  # BatchNorm's, which training makes irregular
                tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def entropy_bound(weights: list[Tensor]) -> float:
    """Bytes for where the zeros are, sign and mantissa as they come, and the exponents."""
    total = 0.0
    for weight in weights:
        values = weight[weight != 0].numpy()
        density = len(values) / weight.numel()
        exponents = np.unique(values.view(np.uint32) >> 23 & 255, return_counts=True)[1]
        total += weight.numel() * entropy(np.array([density, 1 - density]))
        total += len(values) * (24 + entropy(exponents / len(values)))
    return total / 8


def entropy(shares: np.ndarray) -> float:
    """Bits of one draw."""
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sparsities", type=Path)
    parser.add_argument("--column", default="gRDA_c0.005_mu0.55")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = network(options.sparsities, options.column)
    weights = [p.detach() for p in model.parameters() if p.dim() > 1]
    dense = b"".join(t.numpy().tobytes() for t in model.state_dict().values())
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    start = time.perf_counter()
    compressed = len(zstandard.ZstdCompressor(level=19).compress(dense))
    seconds = {"zstd -19": time.perf_counter() - start}
    sizes = {"dense": len(dense), "zstd -19": compressed}
    torch.manual_seed(0)
    changes, x = {}, torch.randn(2, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dpz"
        for values in ("float32", "float16", "int8"):
            saved = save(model, path, x, values=values)
            sizes[values], changes[values] = saved.bytes, saved.change
            start = time.perf_counter()
            net = load(path)
            seconds[f"load {values}"] = time.perf_counter() - start
            start = time.perf_counter()
            save(net, path)
            seconds[f"save {values}"] = time.perf_counter() - start
    figures = {
        "sparsities": f"{options.sparsities.name}, column {options.column}",
        "zstandard": zstandard.__version__,
        "weights": sum(w.numel() for w in weights),
        "zeros": zeros,
        "entropy_bound_of_weights": round(entropy_bound(weights)),
        "bytes": sizes,
        "change": changes,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    print(figures, file=sys.stderr)
    write(options.json, figures)


if __name__ == "__main__":
    main()
