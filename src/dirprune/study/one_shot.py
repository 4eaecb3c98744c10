"""Magnitude pruning of a trained network, without training afterwards."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import nn

from dirprune._support.files import write_json
from dirprune._support.tensors import utf8_path, write_tensors
from dirprune.groups import param_groups
from dirprune.quantile import magnitudes, mark_smallest
from dirprune.train.config import TrainConfig
from dirprune.train.evaluation import epoch_record, refresh_statistics
from dirprune.train.methods import trainable
from dirprune.train.replaced import discard_replaced, locked_run
from dirprune.train.runs import RunFolder
from dirprune.train.session import Progress, open_session
from dirprune.train.summary import finished_summary
from dirprune.train.weights import load_weights, read_weights


def prune_finished(dense: Path, dense_config: TrainConfig, out: Path, config: TrainConfig) -> None:
    """Prune the smallest weights of a finished run, evaluate, and write a run folder.

    The folder has no training loss and accuracy; its seconds and peak memory are those of the
    dense run.

    Args:
        dense: Folder of the finished run.
        dense_config: Its config.
        out: Folder of the pruned network; an incomplete earlier attempt is replaced.
        config: Config of the pruned network. Its ``sparsity`` is the share of zeros among all
            trainable parameters, ``prune`` selects the parameters that can become zero, and
            ``refresh_batchnorm`` re-estimates BatchNorm statistics.

    Raises:
        ValueError: If there are too few prunable weights.
        FolderInUse: If another process is writing the folder.
    """
    with locked_run(out):
        trained = RunFolder(dense)
        session = open_session(replace(dense_config, refresh_batchnorm=config.refresh_batchnorm))
        load_weights(session.net, read_weights(trained.weights), str(trained.weights))
        prune_magnitude(session.net, config.mask_sparsity, config.prune)
        if config.refresh_batchnorm:
            refresh_statistics(session)
        unmeasured = torch.ones(3, dtype=torch.float64, device=session.device)
        progress = Progress(unmeasured, step=len(session.lrs))
        seconds = statistics.median(epoch["seconds"] for epoch in trained.read_metrics())
        record = epoch_record(session, progress)
        record |= {"train_loss": None, "train_accuracy": None, "seconds": seconds}

        folder = RunFolder(out)
        folder.begin(config, None, session.device.type, session.data.task)
        folder.append_metrics(record)
        write_tensors(folder.weights, session.net.state_dict())
        figures = finished_summary(
            session.net,
            session.optimizer,
            session.lrs,
            folder.read_metrics(),
            best=None,
            peak_memory_mib=(trained.read_summary() or {})["peak_memory_mib"],
            test_images=len(session.data.test),
            weights=folder.weights,
        )
        write_json(folder.summary, figures | {"epochs": config.epochs})
        discard_replaced(folder.path)  # an incomplete earlier attempt, if there was one


@torch.no_grad()
def prune_magnitude(
    model: nn.Module, sparsity: float, prune: Literal["all", "weights"] = "all"
) -> None:
    """Set the weights of smallest magnitude to zero, over all layers together.

    Args:
        model: Changed in place.
        sparsity: Share of zeros among all trainable parameters afterwards, in [0, 1).
        prune: Which parameters can become zero: all, or only weights.

    Raises:
        ValueError: If there are too few of them.

    Example:
        >>> layer = nn.Linear(9, 10)
        >>> prune_magnitude(layer, 0.63)
        >>> int((layer.weight == 0).sum() + (layer.bias == 0).sum())
        63
    """
    groups = [group for group in param_groups(model, prune) if "c" not in group]
    weights = [p for group in groups for p in group["params"] if p.requires_grad]
    number = round(sparsity * trainable(model))
    prunable = sum(p.numel() for p in weights)
    if number > prunable:
        raise ValueError(
            f"sparsity {sparsity} needs {number} zeros, but only {prunable} weights can be "
            "pruned: give a smaller sparsity, or prune all parameters (--prune all)"
        )
    for p, pruned in zip(weights, mark_smallest(magnitudes(weights), number), strict=True):
        p.masked_fill_(pruned.to(p.device), 0.0)


def has_batchnorm(weights: Path) -> bool:
    """Return whether a file of weights has running statistics of BatchNorm."""
    with utf8_path(weights) as path, safe_open(path, framework="pt") as file:
        return any(name.endswith("running_mean") for name in file.keys())  # noqa: SIM118
