"""Valid graphs of every operator with extreme sizes, attributes and values, against torch."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.hostile_graphs import KINDS, hostile_graph, values
from dirprune.deploy import GraphNet
from dirprune.deploy.file.encode import encode
from dirprune.deploy.graph.fold import fold
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.lowering import lowered
from dirprune.deploy.graph.operators import OPERATORS

_cpp = pytest.importorskip("dirprune._cpp", reason="dirprune was installed without its extension")

SKIPS_ZEROS = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul",
               "upsample_bilinear")  # fmt: skip
"""For these 0 times infinity or NaN is 0."""
SMALLEST = 2.0**-126
"""Below it a number is denormal, which the engine treats as zero."""


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < SMALLEST, np.copysign(0, x), x)


def references(graph: Graph, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The results of torch in float32 and in float64."""
    tensors = {name: flushed(tensor) for name, tensor in graph.tensors.items()}
    net = GraphNet(Graph(graph.shape, graph.nodes, graph.output, tensors))
    given = torch.from_numpy(flushed(x))
    with torch.no_grad():
        torch.set_flush_denormal(True)
        try:
            single = net(given).numpy()
        finally:
            torch.set_flush_denormal(False)
        return single, net.double()(given.double()).numpy()


@np.errstate(invalid="ignore", over="ignore")
def agrees(graph: Graph, found: np.ndarray, single: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Where a result is that of torch: in float64 within rounding, else in float32."""
    largest = np.abs(exact[np.isfinite(exact) & (np.abs(exact) < 1e38)]).max(initial=SMALLEST)
    fits = np.abs(found - exact) <= 1e-5 * largest + SMALLEST + 4 * np.abs(single - exact)
    for expected in (single, exact.astype(np.float32)):
        fits |= np.isclose(found, expected, rtol=1e-5, atol=SMALLEST, equal_nan=True)
    # Sums that are finite may overflow in float32; then any result that is not larger will do.
    overflown = np.isfinite(exact) & ~np.isfinite(single)
    fits |= overflown & ~(np.isfinite(found) & (np.abs(found) > 1.01 * largest))
    if any(node.op in SKIPS_ZEROS for node in graph.nodes):
        fits |= ~np.isfinite(single)
    return fits


def check(graph: Graph, x: np.ndarray, threads: int, tune: bool) -> None:
    single, exact = references(graph, x)
    for form in (lowered(graph), fold(graph)):
        tensors = [np.asarray(tensor, order="C") for tensor in form.tensors.values()]
        found = _cpp.Program(encode(form), tensors).run(x, threads, tune)
        assert found.shape == exact.shape
        wrong = ~agrees(graph, found, single, exact)
        assert not wrong.any(), (found[wrong][:5], single[wrong][:5], exact[wrong][:5])


@pytest.mark.parametrize("op", OPERATORS)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_hostile_graphs(op: str, seed: int, kind: str) -> None:
    random = Random(seed)
    graph = hostile_graph(op, random)
    rng = np.random.default_rng(random.getrandbits(32))
    x = values(rng, kind, (random.choice((1, 2, 9)), *graph.shape[1:]))
    check(graph, x, random.randint(1, 2), random.random() < 0.2)
