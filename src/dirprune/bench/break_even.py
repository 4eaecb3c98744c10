"""The sparsity from which dirprune is faster than the fastest other runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dirprune.bench import latency as bench
from dirprune.bench.latency import graph_of, layer_weights
from dirprune.bench.runtimes import PEERS
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.quantile import mark_smallest


@dataclass(frozen=True)
class BreakEven:
    """The sparsity from which dirprune is faster than the fastest other runtime.

    Attributes:
        sparsities: The measured sparsities, ascending.
        ratios: Time of the fastest other runtime over dirprune's, at each sparsity.
        sparsity: Where the ratio passes 1, by linear interpolation. None if it never does; the
            lowest measured sparsity if it always does.
        measured: The network's own sparsity.
    """

    sparsities: tuple[float, ...]
    ratios: tuple[float, ...]
    sparsity: float | None
    measured: float

    def __str__(self) -> str:
        """Return the result, and what to do if the network is not sparse enough."""
        tried = ", ".join(f"{r:.2f}x at {s:.0%}" for s, r in zip(self.sparsities, self.ratios))
        if self.sparsity is None:
            return f"never faster than the fastest other runtime ({tried})"
        text = f"faster than the fastest other runtime from {self.sparsity:.0%} zeros on ({tried})"
        if self.measured >= self.sparsity:
            return text
        return (
            f"{text}; this network has {self.measured:.0%}: train it with a larger c, or with "
            f"SparsityPlan(sparsity={min(0.99, self.sparsity + 0.05):.2f}, ...)"
        )


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
    """Find the sparsity from which a network is faster here than in the fastest other runtime.

    Masks the smallest weights of every layer, the same share of each, and measures.

    Args:
        model: As for :func:`.bench.benchmark`.
        example_inputs: As for :func:`.bench.benchmark`.
        against: As for :func:`.bench.benchmark`.
        batch: Batch size.
        threads: Number of threads.
        sparsities: Sparsities to measure, ascending, in [0, 1).
        rounds: Timed calls of each.

    Returns:
        The measured ratios, and where they pass 1.

    Raises:
        ValueError: If no other runtime is installed.
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
                "a break-even needs another runtime, none is installed: pip install onnxruntime"
            )
        ratios.append(min(others))
    found = crossing(sparsities, ratios)
    return BreakEven(tuple(sparsities), tuple(ratios), found, bench.sparsity(graph))


def crossing(sparsities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Find the sparsity from which a ratio stays at 1 or above.

    Args:
        sparsities: Ascending.
        ratios: The ratio at each sparsity.

    Returns:
        The sparsity, by linear interpolation; None if the last ratio is below 1.

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
    """Set the smallest weights of every convolution and linear layer to zero, a share of each."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"a sparsity must lie in [0, 1), got {sparsity}")
    tensors = dict(graph.tensors)
    for name in layer_weights(graph):
        weights = tensors[name].copy()
        (smallest,) = mark_smallest(
            [torch.from_numpy(abs(weights))], round(sparsity * weights.size)
        )
        weights[smallest.numpy()] = 0
        tensors[name] = weights
    return replace(graph, tensors=tensors)
