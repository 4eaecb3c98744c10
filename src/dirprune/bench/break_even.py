"""From which sparsity on a network is faster here than anywhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from dirprune.bench import latency as bench
from dirprune.bench.latency import graph_of, layer_weights
from dirprune.bench.runtimes import PEERS
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet


@dataclass(frozen=True)
class BreakEven:
    """From which sparsity on the network is faster here than in the fastest peer.

    Attributes:
        sparsities: That were tried, ascending.
        ratios: The fastest peer's time over ours at each.
        sparsity: Where the ratio passes 1, by linear interpolation; None if it never does, the
            lowest that was tried if it always does.
    """

    sparsities: tuple[float, ...]
    ratios: tuple[float, ...]
    sparsity: float | None

    def __str__(self) -> str:
        """Say it in one line."""
        tried = ", ".join(f"{r:.2f}x at {s:.0%}" for s, r in zip(self.sparsities, self.ratios))
        if self.sparsity is None:
            return f"never faster than the fastest peer ({tried})"
        return f"faster than the fastest peer from {self.sparsity:.0%} zeros on ({tried})"


def break_even(
    model: nn.Module | str | Path,
    example_inputs: Tensor | None = None,
    *,
    against: Sequence[str] = PEERS,
    batch: int = 1,
    threads: int = 1,
    sparsities: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    rounds: int = 20,
) -> BreakEven:
    """Measure from which sparsity on a network is faster here than in the fastest peer.

    The smallest weights of every layer are masked, the same share of each.

    Args:
        model: As for :func:`.bench.benchmark`.
        example_inputs: As for :func:`.bench.benchmark`.
        against: As for :func:`.bench.benchmark`.
        batch: Batch size.
        threads: Number of threads.
        sparsities: To try, ascending, in [0, 1).
        rounds: Timed calls of each.

    Returns:
        The ratios that were measured, and where they pass 1.

    Raises:
        ValueError: If there is nothing to compare with.
    """
    graph = graph_of(model, example_inputs)
    ratios = []
    for share in sparsities:
        figures = bench.benchmark(
            GraphNet(masked(graph, share)),
            against=against, batches=(batch,), threads=(threads,), rounds=rounds,
        )  # fmt: skip
        peers = [row for row in figures.rows if row.runtime != "dirprune"]
        others = [row.speedup for row in peers if row.speedup is not None]
        if not others:
            raise ValueError(
                "a break-even needs a peer that is installed: pip install onnxruntime"
            )
        ratios.append(min(others))
    return BreakEven(tuple(sparsities), tuple(ratios), crossing(sparsities, ratios))


def crossing(sparsities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Find from which sparsity on a ratio stays at 1 or above.

    Args:
        sparsities: Ascending.
        ratios: Measured at each.

    Returns:
        Interpolated between two of them; None if the last ratio is below 1.

    Example:
        >>> crossing([0.5, 0.7, 0.9], [0.4, 0.8, 1.6]), crossing([0.5, 0.7], [1.5, 0.5])
        (0.75, None)
    """
    if ratios[-1] < 1:
        return None
    for (s0, r0), (s1, r1) in reversed(
        list(zip(zip(sparsities, ratios), zip(sparsities[1:], ratios[1:])))
    ):
        if r0 < 1:
            return s0 + (1 - r0) / (r1 - r0) * (s1 - s0)
    return sparsities[0]


def masked(graph: Graph, sparsity: float) -> Graph:
    """Zero the smallest weights of every convolution and linear layer, a share of each.

    Args:
        graph: Any.
        sparsity: The share, in [0, 1).

    Returns:
        The graph with other tensors.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"a sparsity must lie in [0, 1), got {sparsity}")
    tensors = dict(graph.tensors)
    for name in layer_weights(graph):
        size = np.abs(tensors[name])
        zeros = round(sparsity * size.size)
        smallest = np.argpartition(size, zeros, axis=None)[:zeros]
        tensors[name] = tensors[name].copy()
        tensors[name].flat[smallest] = 0
    return replace(graph, tensors=tensors)
