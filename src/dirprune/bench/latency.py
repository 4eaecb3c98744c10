"""Latency in dirprune and other runtimes: one process, interleaved calls, equal outputs."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import product
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dirprune import __version__
from dirprune._support import native
from dirprune._support.processor import processor_name
from dirprune._support.sizes import size_text
from dirprune.bench.quantized import write_int8
from dirprune.bench.runtimes import INT8, PEERS, Call, Peer, check_peers, is_installed, open_peers
from dirprune.deploy import capture, load, save
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.onnx import write_onnx

TOLERANCES = {"f32": 1e-4, "bf16": 0.1, "f16": 1e-2, "i8": 0.3}
"""Largest difference from torch that is accepted, relative to the largest output."""

SETTLING = 0.1
"""Seconds of untimed calls before a timed one: threads of other runtimes spin for up to 0.05 s."""


@dataclass(frozen=True)
class RuntimeLatency:
    """One runtime at one batch size and number of threads.

    Attributes:
        runtime: ``dirprune`` or a peer.
        precision: Precision of its arithmetic.
        batch: Batch size.
        threads: Number of threads.
        quartiles: Lower quartile, median and upper quartile of a call, in ms.
        speedup: Its time over dirprune's in the same round, median over the rounds; None if
            dirprune was not measured.
        difference: Largest difference of its outputs from torch's, relative to the largest output.
    """

    runtime: str
    precision: str
    batch: int
    threads: int
    quartiles: tuple[float, float, float]
    speedup: float | None
    difference: float

    @property
    def milliseconds(self) -> float:
        """The median."""
        return self.quartiles[1]

    @property
    def spread(self) -> float:
        """The distance between the quartiles over the median."""
        return (self.quartiles[2] - self.quartiles[0]) / self.quartiles[1]


@dataclass(frozen=True)
class Benchmark:
    """The figures; ``str()`` is a table.

    Attributes:
        rows: A row for every runtime, batch size and number of threads.
        sparsity: Zeros over all weights of convolutions and linear layers.
        bytes: Size of the compact file and, if it was written, of the ONNX file.
        rounds: Timed calls of each row.
        missing: Runtimes that were requested and are not installed.
        machine: Processor, number of cores and versions.
    """

    rows: tuple[RuntimeLatency, ...]
    sparsity: float
    bytes: dict[str, int]
    rounds: int
    missing: tuple[str, ...]
    machine: dict[str, str]

    def __str__(self) -> str:
        """Draw the table."""
        lines = [f"{'':24} {'batch':>5} {'threads':>7} {'ms':>9} {'quartiles':>17} "
                 f"{'spread':>6} {'ratio':>7} {'difference':>10}"]  # fmt: skip
        for row in self.rows:
            name = f"{row.runtime} {row.precision}"
            low, middle, high = row.quartiles
            ratio = "" if row.speedup is None else f"{row.speedup:.2f}x"
            lines.append(
                f"{name:24} {row.batch:5} {row.threads:7} {middle:9.3f} {low:8.3f}-{high:8.3f} "
                f"{row.spread:6.0%} {ratio:>7} {row.difference:10.1e}"
            )
        return "\n".join([*lines, *self.notes])

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines below the table: the network, the method, missing runtimes, the machine."""
        sizes = ", ".join(f"{name} {size_text(size)}" for name, size in self.bytes.items())
        return (
            f"zeros: {self.sparsity:.2%} of the weights in the file; {sizes}",
            f"medians of {self.rounds} interleaved calls; ratio: time over dirprune's",
            *(f"not installed: {name}" for name in self.missing),
            ", ".join(f"{key} {value}" for key, value in self.machine.items()),
        )

    def json(self) -> str:
        """Return all figures as JSON."""
        return json.dumps(asdict(self), indent=1)


def benchmark(
    model: nn.Module | str | Path,
    example_inputs: Tensor | None = None,
    *,
    against: Sequence[str] = PEERS,
    batches: Sequence[int] = (1, 16),
    threads: Sequence[int] = (1, 2),
    rounds: int = 20,
) -> Benchmark:
    """Measure a network in dirprune and in other runtimes.

    All runtimes compute the same network in the same process, and their timed calls are
    interleaved. Before each timed call a runtime makes untimed calls for a tenth of a second, so
    that caches and spinning threads of the other runtimes do not matter. Outputs are compared
    before anything is timed.

    Args:
        model: A file of :func:`dirprune.deploy.save`, or a module.
        example_inputs: For a module, as for :func:`dirprune.deploy.capture`.
        against: Runtimes to compare with: torch, onnxruntime, openvino, and the latter two with
            8-bit arithmetic: onnxruntime-int8, openvino-int8. Runtimes that are not installed are
            skipped and named in the result.
        batches: Batch sizes.
        threads: Numbers of threads.
        rounds: Timed calls of each.

    Returns:
        The figures.

    Raises:
        ValueError: If there is nothing to measure.
        ImportError: If dirprune was installed without its C++ extension.
        RuntimeError: If the outputs of two runtimes differ.
    """
    native.required_extension()
    against, batches, threads = tuple(against), tuple(batches), tuple(threads)
    check_peers(against)
    if min((rounds, *batches, *threads)) < 1 or not batches or not threads:
        raise ValueError("rounds, batch sizes and numbers of threads must be at least 1")
    missing = tuple(name for name in against if not is_installed(name))
    graph = graph_of(model, example_inputs)
    net = GraphNet(graph)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        compact, onnx = Path(folder, "model.dpz"), Path(folder, "model.onnx")
        int8 = Path(folder, "int8.onnx")
        if isinstance(model, nn.Module):
            save(net, compact)
        else:
            compact = Path(model)
        sizes = {"file": compact.stat().st_size}
        if set(against) - {"torch"} - set(missing):
            write_onnx(graph, onnx)
            sizes["onnx"] = onnx.stat().st_size
        if set(against) & set(INT8) - set(missing):
            write_int8(onnx, int8, graph.shape[1:])
            sizes["int8 onnx"] = int8.stat().st_size
        rows: list[RuntimeLatency] = []
        try:
            for batch, count in product(batches, threads):
                shape = (batch, *graph.shape[1:])
                peers = [Peer("dirprune", "f32", _engine(compact, count))]
                for name in against:
                    if name not in missing:
                        peers += open_peers(
                            name, net, int8 if name in INT8 else onnx, shape, count
                        )
                rows += _measure(peers, net, shape, count, rounds)
        finally:
            torch.set_num_threads(before)
    return Benchmark(tuple(rows), sparsity(graph), sizes, rounds, missing, machine())


def graph_of(model: nn.Module | str | Path, example_inputs: Tensor | None) -> Graph:
    """Return the graph of a file or module, given as for :func:`benchmark`.

    Raises:
        ValueError: If a file holds weights only, or a module comes without inputs.
    """
    if not isinstance(model, nn.Module):
        loaded = load(model)
        if not isinstance(loaded, GraphNet):
            raise ValueError(f"{model} contains only weights: save it with example_inputs")
        return loaded.graph
    if isinstance(model, GraphNet):
        return model.graph
    if example_inputs is None:
        raise ValueError("a module needs example_inputs: give a batch of 2 or more")
    return capture(model, example_inputs)


def layer_weights(graph: Graph) -> list[str]:
    """Return the names of the weights of all convolutions and linear layers, each once."""
    layers = [node for node in graph.nodes if node.op in ("conv2d", "linear")]
    return list(dict.fromkeys(node.tensors["weight"] for node in layers))


def sparsity(graph: Graph) -> float:
    """Return zeros over all weights of convolutions and linear layers, without biases."""
    weights = [graph.tensors[name] for name in layer_weights(graph)]
    total = sum(weight.size for weight in weights)
    return 1 - sum(int(np.count_nonzero(weight)) for weight in weights) / total if total else 0.0


def machine() -> dict[str, str]:
    """Return the CPU and the versions of everything that is measured."""
    found = {"cpu": processor_name(), "cores": str(os.cpu_count()), "python": python_version()}
    installed = [name for name in PEERS if is_installed(name)]
    return found | {"dirprune": __version__} | {name: version(name) for name in installed}


def _engine(path: Path, threads: int) -> Call:
    engine: Any = import_module("dirprune.deploy.engine").Engine(path, threads=threads)
    call: Call = engine
    return call


def _measure(
    peers: list[Peer], net: GraphNet, shape: tuple[int, ...], threads: int, rounds: int
) -> list[RuntimeLatency]:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(x)).numpy()
    scale = float(np.abs(expected).max()) or 1.0
    differences = []
    for peer in peers:
        gap = float(np.abs(peer.call(x) - expected).max()) / scale
        if not gap <= TOLERANCES.get(peer.precision, 0.1):
            raise RuntimeError(
                f"{peer.name} in {peer.precision} differs by {gap:.1e} from torch at batch "
                f"{shape[0]}: nothing was timed"
            )
        differences.append(gap)
    times: list[list[float]] = [[] for _ in peers]
    for _ in range(rounds):
        for peer, own in zip(peers, times):
            settled = time.perf_counter() + SETTLING
            peer.call(x)
            while time.perf_counter() < settled:
                peer.call(x)
            start = time.perf_counter()
            peer.call(x)
            own.append(1e3 * (time.perf_counter() - start))
    ours = next((t for peer, t in zip(peers, times) if peer.name == "dirprune"), None)
    rows = []
    for peer, own, gap in zip(peers, times, differences):
        low, middle, high = map(float, np.percentile(own, (25, 50, 75)))
        ratio = statistics.median(a / b for a, b in zip(own, ours)) if ours else None
        rows.append(
            RuntimeLatency(
                peer.name, peer.precision, shape[0], threads, (low, middle, high), ratio, gap
            )
        )
    return rows
