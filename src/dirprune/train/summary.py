"""The summary of a run, from its model, optimizer and epochs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import zstandard
from torch import Tensor, nn
from torch.optim import Optimizer

from dirprune.adam_grda import AdamGRDA
from dirprune.grda import GRDA
from dirprune.sparsity import SparsityReport, sparsity_report
from dirprune.threshold import effective_lr, threshold_path

Summary = dict[str, Any]
"""The content of summary.json."""

_EPOCH_FIGURES = (
    *("train_loss", "train_accuracy", "test_loss", "test_accuracy"),
    *("sparsity", "nonzeros", "threshold", "l1", "l2", "l2_over_l1"),
)


def unfinished_summary(
    status: str, epochs: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None
) -> Summary:
    """Summarise a run that stopped early, by its last complete epoch.

    Args:
        status: interrupted or diverged.
        epochs: The lines of metrics.jsonl so far.
        best: The epoch of highest validation accuracy so far, or None.

    Returns:
        Every key of summary.json; figures that only a finished run has are None.
    """
    last: Mapping[str, Any] = epochs[-1] if epochs else {}
    later = (
        *("zeros", "total", "peak_memory_mib", "test_images"),
        *("weights_bytes", "weights_zstd_bytes"),
    )
    return {
        "status": status,
        "epochs": len(epochs),
        **{name: last.get(name) for name in _EPOCH_FIGURES},
        "seconds_per_epoch": statistics.median(e["seconds"] for e in epochs) if epochs else None,
        "best": dict(best) if best else None,
        **dict.fromkeys((*later, "layers", "threshold_path", "histograms")),
    }


def finished_summary(
    model: nn.Module,
    optimizer: Optimizer,
    lrs: Sequence[float],
    epochs: Sequence[Mapping[str, Any]],
    *,
    best: Mapping[str, Any] | None,
    peak_memory_mib: float,
    test_images: int,
    weights: Path,
) -> Summary:
    """Summarise a run that has finished.

    Args:
        model: The trained model.
        optimizer: With its final state.
        lrs: Learning rate of every step.
        epochs: The lines of metrics.jsonl.
        best: The epoch of highest validation accuracy, or None.
        peak_memory_mib: Peak memory of the run.
        test_images: Number of test images.
        weights: The file of the final weights.

    Returns:
        Every key of summary.json. ``weights_zstd_bytes`` uses zstandard's level 9, which is ten
        times faster than level 19 and within a tenth of its size.
    """
    report = sparsity_report(model)
    payload = weights.read_bytes()
    return unfinished_summary("finished", epochs, best) | {
        "zeros": report.zeros,
        "total": report.total,
        "peak_memory_mib": round(peak_memory_mib, 1),
        "test_images": test_images,
        "weights_bytes": len(payload),
        "weights_zstd_bytes": len(zstandard.ZstdCompressor(level=9).compress(payload)),
        "layers": _layers(report),
        "threshold_path": _threshold_path(optimizer, lrs),
        "histograms": {
            "weights": histogram([p for p in model.parameters() if p.requires_grad]),
            "accumulators": histogram([s["v"] for s in optimizer.state.values() if "v" in s]),
        },
    }


@torch.no_grad()
def histogram(tensors: Sequence[Tensor], bins: int = 61) -> dict[str, list[float]] | None:
    """Compute a histogram over many tensors, with bins that are symmetric around 0.

    Args:
        tensors: Finite values of any shapes.
        bins: Number of bins; it is odd, so that zero is the middle of a bin.

    Returns:
        ``edges`` (bins + 1) and ``counts`` (bins), or None without tensors.

    Example:
        >>> histogram([torch.tensor([-1.0, 0.0, 0.1, 1.0])], bins=3)["counts"]
        [1, 2, 1]
    """
    if not tensors:
        return None
    largest = max((float(t.abs().max()) for t in tensors if t.numel()), default=0.0) or 1.0
    counts = torch.zeros(bins, dtype=torch.float64)
    for tensor in tensors:
        values = tensor.cpu().double()
        counts += torch.histc(values, bins, -largest, largest)
    edges = torch.linspace(-largest, largest, bins + 1, dtype=torch.float64)
    return {"edges": edges.tolist(), "counts": [int(count) for count in counts]}


def largest_threshold(optimizer: Optimizer) -> float | None:
    """Return the largest current threshold, or None for an optimizer without thresholds."""
    return max(optimizer.thresholds()) if isinstance(optimizer, (GRDA, AdamGRDA)) else None


def _layers(report: SparsityReport) -> list[dict[str, Any]]:
    return [{**asdict(layer), "shape": list(layer.shape)} for layer in report.layers]


def _threshold_path(optimizer: Optimizer, lrs: Sequence[float]) -> dict[str, list[float]] | None:
    """Return the threshold at up to 200 steps, or None if it does not follow the paper."""
    laws = [group for group in optimizer.param_groups if group.get("plan") is None]
    if not isinstance(optimizer, (GRDA, AdamGRDA)) or len(laws) < len(optimizer.param_groups):
        return None
    group = max(optimizer.param_groups, key=lambda g: float(g["c"]))
    rates = [effective_lr(lr, group.get("momentum", 0.0)) for lr in lrs]
    path = threshold_path(group["c"], group["mu"], rates)
    steps = torch.linspace(1, len(lrs), min(200, len(lrs))).round().long()
    return {"step": steps.tolist(), "g": path[steps - 1].tolist()}
