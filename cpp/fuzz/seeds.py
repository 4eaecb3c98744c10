"""Writes graphs for the fuzzer to start from: small networks, and convolutions of any geometry.

Usage: python cpp/fuzz/seeds.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dirprune import _cpp
from dirprune.deploy import capture
from dirprune.deploy.file.encode import encode
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.shapes import infer_shape

CONVOLUTIONS = 300


class Resizing(nn.Module):
    """Strides, groups, resizing, pooling with padding, and arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a vector for every image."""
        x = nn.functional.interpolate(self.conv(x), (5, 4), mode="bilinear", align_corners=True)
        x = nn.functional.avg_pool2d(x, (2, 3), 2, 1, ceil_mode=True, count_include_pad=False)
        x = nn.functional.interpolate(nn.functional.pad(x, (0, 1, 2, 0), value=0.5), (3, 7))
        return (1 - nn.functional.gelu(nn.functional.adaptive_avg_pool2d(x, 2))).flatten(1)


def networks() -> list[Graph]:
    """Captured networks, which have most operators."""
    convolutional = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((3, 2), 2, 1),
        nn.Conv2d(4, 4, 1, groups=2), nn.Hardswish(), nn.Flatten(), nn.Linear(48, 5),
        nn.LayerNorm(5), nn.Softmax(1),
    )  # fmt: skip
    attention = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return [
        capture(convolutional.eval(), torch.ones(2, 3, 6, 7)),
        capture(Resizing().eval(), torch.ones(2, 3, 5, 5)),
        capture(attention.eval(), torch.ones(2, 3, 8)),
    ]


def convolution(rng: np.random.Generator) -> Graph:
    """One convolution with an activation, of any geometry."""
    groups, activation = int(rng.integers(1, 4)), int(rng.integers(12))
    inputs, outputs = (groups * int(rng.integers(1, most)) for most in (6, 10))
    kernel, stride = (rng.integers(1, 5, 2).tolist() for _ in range(2))
    dilation, padding = rng.integers(1, 4, 2).tolist(), rng.integers(0, 3, 4).tolist()
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = [max(int(rng.integers(1, 25)), r) for r in reach]
    attrs = {
        "stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation),
        "groups": groups, "activation": activation,
    }  # fmt: skip
    shape = (-1, inputs, *size)
    weight = np.zeros((outputs, inputs // groups, *kernel), np.float32)
    result = infer_shape("conv2d", [shape], {"weight": weight.shape}, attrs)
    node = Node("conv2d", (0,), result, attrs, {"weight": "w"}, "n")
    return Graph(shape, (node,), 1, {"w": weight})


def main(folder: Path) -> None:
    """Write a file for every graph."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    graphs = [*networks(), *(convolution(rng) for _ in range(CONVOLUTIONS))]
    for number, graph in enumerate(graphs):
        data = encode(graph)
        _cpp.Program(data, list(graph.tensors.values()))  # raises for what is no graph
        (folder / f"{number:03}").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
