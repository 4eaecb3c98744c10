"""Export of finished runs, with file size and latency for their summaries."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dirprune._support import native
from dirprune._support.files import write_json
from dirprune.bench import benchmark
from dirprune.deploy import save, shrink
from dirprune.train.runs import RunFolder
from dirprune.train.trained import trained_network

ROUNDS = 50
"""Timed calls of each runtime."""


def dense_bytes(net: nn.Module) -> int:
    """Return the size of a network's tensors without compression."""
    return sum(tensor.nbytes for tensor in net.state_dict().values())


def ship(run: Path) -> dict[str, Any]:
    """Export the network of a finished run into its folder, and time it on one thread.

    The network is shrunk first, which does not change its outputs. The figures are written to
    ``summary.json`` under ``deploy``, for the report. A run that is already exported is not
    exported again.

    Args:
        run: Folder of a finished run.

    Returns:
        ``file_bytes`` of model.dpz, ``dense_bytes`` of the dense weights, and ``latency_ms`` for
        one image of the shrunk network in ``torch`` and in ``dirprune``'s engine; empty if the
        C++ extension is not installed.

    Raises:
        FileNotFoundError: If the run has not finished.
        ValueError: If the network has an operator that cannot be exported.
    """
    folder = RunFolder(run)
    net, shape = trained_network(run, trust_model=True)
    summary = folder.read_summary()
    if summary is None:
        raise FileNotFoundError(f"{run} has no summary.json: let the run finish first")
    found: dict[str, Any] | None = summary.get("deploy")
    if found is None or not folder.exported.exists():
        example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        saved = save(shrink(net, example), folder.exported, example)
        latencies = {}
        if native.extension() is not None:
            timed = benchmark(
                folder.exported, against=("torch",), batches=(1,), threads=(1,), rounds=ROUNDS
            )
            latencies = {row.runtime: row.milliseconds for row in timed.rows}
        found = {
            "file_bytes": saved.bytes,
            "dense_bytes": dense_bytes(net),
            "latency_ms": latencies,
        }
        write_json(folder.summary, summary | {"deploy": found})
    return found
