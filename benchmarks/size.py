"""File size of a pruned ResNet-50, compared with zstandard and the entropy of the weights.

The weights are random. Trained weights are less random, so they compress better.

    python benchmarks/size.py [--json FILE.json]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zstandard
from torch import Tensor

from dirprune.deploy import load, save
from machine import write
from sparse_networks import PAPER, paper_resnet50


def entropy_bound(weights: list[Tensor]) -> float:
    """Bytes for the positions of the zeros, raw signs and mantissas, and coded exponents."""
    total = 0.0
    for weight in weights:
        values = weight[weight != 0].numpy()
        density = len(values) / weight.numel()
        exponents = np.unique(values.view(np.uint32) >> 23 & 255, return_counts=True)[1]
        total += weight.numel() * entropy(np.array([density, 1 - density]))
        total += len(values) * (24 + entropy(exponents / len(values)))
    return total / 8


def entropy(shares: np.ndarray) -> float:
    """Shannon entropy in bits."""
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = paper_resnet50()
    weights = [p.detach() for p in model.parameters() if p.dim() > 1]
    dense = b"".join(t.numpy().tobytes() for t in model.state_dict().values())
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    start = time.process_time()
    compressed = len(zstandard.ZstdCompressor(level=19).compress(dense))
    seconds = {"zstd -19": time.process_time() - start}
    sizes = {"dense": len(dense), "zstd -19": compressed}
    torch.manual_seed(0)
    changes, x = {}, torch.randn(2, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dpz"
        for values in ("float32", "float16", "int8"):
            saved = save(model, path, x, values=values)
            sizes[values], changes[values] = saved.bytes, saved.change
            start = time.process_time()
            net = load(path)
            seconds[f"load {values}"] = time.process_time() - start
            start = time.process_time()
            save(net, path)
            seconds[f"save {values}"] = time.process_time() - start
    figures = {
        "zeros_per_layer": PAPER.name,
        "zstandard": zstandard.__version__,
        "weights": sum(w.numel() for w in weights),
        "zeros": zeros,
        "entropy_bound_of_weights": round(entropy_bound(weights)),
        "bytes": sizes,
        "change": changes,
        "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    print(figures, file=sys.stderr)
    write(options.json, figures)


if __name__ == "__main__":
    main()
