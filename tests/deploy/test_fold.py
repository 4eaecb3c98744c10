"""A lowered graph computes what the graph did, with fewer nodes."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.networks import NAMES, captured, difference, inputs, sparsify
from dirprune.deploy import Graph, GraphNet, capture
from dirprune.deploy.file.encode import decode, encode
from dirprune.deploy.graph.fold import fold


@pytest.mark.parametrize("name", NAMES)
def test_a_lowered_network_computes_the_same(name: str) -> None:
    graph = captured(name)[1]
    lowered = fold(graph)
    x = inputs(name, 3).double()
    with torch.no_grad():
        before, after = (GraphNet(g).double()(x) for g in (graph, lowered))
    assert difference(before, after) < 1e-6
    ops = [node.op for node in lowered.nodes]
    assert not {"batch_norm", "dropout"} & set(ops)
    assert len(ops) < len(graph.nodes)
    assert zeros(lowered) == zeros(graph)
    again = decode(encode(lowered), lowered.tensors)
    assert again.nodes == lowered.nodes
    assert fold(lowered).nodes == lowered.nodes


def zeros(graph: Graph) -> int:
    return sum(int((a == 0).sum()) for a in graph.tensors.values() if a.ndim > 1)


class Block(nn.Module):
    """Two convolutions of one shape, joined as a test wants it."""

    def __init__(self, join: Callable[["Block", Tensor], Tensor]) -> None:
        super().__init__()
        self.join = join
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc, self.bn1 = nn.Linear(6, 6), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x)


def residual(m: Block, x: Tensor) -> Tensor:
    return F.relu(m.norm(m.a(x)) + m.other(m.b(x)))


def shared_weight(m: Block, x: Tensor) -> Tensor:
    return m.norm(m.a(x)) + m.other(m.a(x))


def read_twice(m: Block, x: Tensor) -> Tensor:
    y = m.a(x)
    z = m.norm(y)
    return z.relu() * y.sigmoid() + z


def late_summand(m: Block, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y.relu()).add(y).tanh()


@pytest.mark.parametrize(
    ("join", "ops"),
    [
        (residual, "conv2d conv2d"),
        (shared_weight, "conv2d conv2d"),
        # The convolution's own result is needed; the norm's is read twice.
        (read_twice, "conv2d affine relu sigmoid mul add"),
        (late_summand, "conv2d relu conv2d"),
        (lambda m, x: m.a(x) + x, "conv2d"),
        (lambda m, x: x + x, "add"),
        (lambda m, x: m.a(x) + m.a(x), "conv2d conv2d"),
        (lambda m, x: (lambda y: y + y)(m.a(x)), "conv2d add"),
        (lambda m, x: m.a(x) + x.mean((2, 3), True), "conv2d mean add"),
        (lambda m, x: m.norm(x).relu(), "affine"),
        (lambda m, x: (m.norm(x) + x).relu(), "affine"),
        (lambda m, x: m.norm(m.a(x).relu()).relu(), "conv2d affine"),
        (lambda m, x: m.norm(m.a(x) + x).relu(), "conv2d affine"),
        (lambda m, x: F.elu(F.leaky_relu(m.a(x), 0.3), 2.0), "conv2d elu"),
        (lambda m, x: F.elu(m.a(x), 2.0) + F.leaky_relu(m.b(x), 0.3), "conv2d conv2d add"),
        (lambda m, x: F.gelu(m.fc(x), approximate="tanh") + F.gelu(m.b(x)), "linear conv2d add"),
        (lambda m, x: m.other(m.norm(m.a(x))), "conv2d"),
        (lambda m, x: m.norm(m.fc(x)), "linear affine"),
        (lambda m, x: m.bn1(m.fc(x[:, 0])), "slice reshape linear affine"),
        (lambda m, x: m.bn1(F.linear(x[:, 0, 0], m.fc.weight[:4])),
         "slice reshape slice reshape linear"),
        (lambda m, x: F.dropout(m.a(x), 0.5, False).reshape(x.shape).relu(), "conv2d"),
        (lambda m, x: F.dropout(x, 0.5, False), ""),
        (lambda m, x: x.chunk(2, 1)[1], "slice"),
    ],
)  # fmt: skip
def test_a_residual_block_is_folded(join: Callable[[Block, Tensor], Tensor], ops: str) -> None:
    block = sparsify(Block(join), 0.5).eval()
    graph = capture(block, torch.randn(2, 4, 4, 6))
    lowered = fold(graph)
    assert " ".join(node.op for node in lowered.nodes) == ops
    x = torch.randn(3, 4, 4, 6, dtype=torch.double)
    with torch.no_grad():
        before, after = (GraphNet(g).double()(x) for g in (graph, lowered))
    assert difference(before, after) < 1e-6


def test_folding_rounds_once() -> None:
    """The bias is the float32 next to -0.1f / 3, the weight 3 / 3."""
    block = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)).eval()
    with torch.no_grad():
        block[0].weight.fill_(3.0)
        block[1].running_var.fill_(9.0)
        block[1].running_mean.fill_(0.1)
    (node,) = (lowered := fold(capture(block, torch.ones(2, 1, 1, 1)))).nodes
    assert lowered.tensors[node.tensors["weight"]].item() == 1.0
    exact = -np.float64(np.float32(0.1)) / 3
    assert lowered.tensors[node.tensors["bias"]].item() == np.float32(exact)


def test_folding_needs_one_scaled_copy_of_the_weights() -> None:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)]
    graph = capture(nn.Sequential(*layers).eval(), torch.ones(2, 128, 3, 3))
    tracemalloc.start()
    lowered = fold(graph)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    weights = sum(tensor.nbytes for tensor in lowered.tensors.values())
    assert peak < 1.1 * weights
