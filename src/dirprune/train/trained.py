"""Trained networks: of a run, or by name with a file of weights."""

from pathlib import Path

from torch import nn

from dirprune._support import decode
from dirprune.models import build, names_code
from dirprune.train.config import TrainConfig
from dirprune.train.runs import RunFolder
from dirprune.train.weights import load_weights, model_tensors, read_weights

NetworkAndShape = tuple[nn.Module, tuple[int, int, int]]
"""A network in evaluation mode, and the shape of one input: channels, height, width."""


def trained_network(
    run: Path, weights: Path | None = None, *, trust_model: bool = False
) -> NetworkAndShape:
    """Build the network of a finished run, without its data.

    Args:
        run: The run's folder.
        weights: A safetensors file of weights for the run's network, such as one of its
            checkpoints; by default the final weights.
        trust_model: Whether a model that the run names as ``module.path:callable`` may be
            imported, which runs its code.

    Returns:
        The network with these weights. Its inputs are normalised images, as in training.

    Raises:
        FileNotFoundError: If there is no such run, or it has no final weights.
        ValueError: If the files are damaged or belong to something else.
    """
    folder = RunFolder(run)
    weights = weights or folder.weights
    if not folder.config.is_file() or (weights == folder.weights and not weights.is_file()):
        raise FileNotFoundError(
            f"{run} is not a finished run: give a folder with config.json and model.safetensors"
        )
    config = read_trained_config(run, trust_model=trust_model)
    task = folder.read_config().get("task")
    if not isinstance(task, dict) or not {"channels", "size", "num_classes"} <= task.keys():
        raise ValueError(
            f"{folder.config} lacks the number of classes or the shape of the images, so it is "
            "damaged or of another version of dirprune: restore it, or repeat the run"
        )
    shape = (task["channels"], *task["size"])
    net = build(
        config.model,
        num_classes=task["num_classes"],
        channels=task["channels"],
        size=shape[1:],
        width=config.width,
    )
    tensors = read_weights(weights)
    if any(name.startswith("optimizer") for name in tensors):  # a checkpoint
        tensors = model_tensors(tensors)
    load_weights(net, tensors, str(weights))
    return net.float().eval(), shape


def read_trained_config(run: Path, *, trust_model: bool = False) -> TrainConfig:
    """Read the config of a run, and check its model if it is not trusted.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If the file is damaged, or the run's model needs consent.
    """
    folder = RunFolder(run)
    config = decode.build(TrainConfig, folder.read_config()["config"], str(folder.config))
    if names_code(config.model) and not trust_model:
        raise ValueError(
            f"{folder.config} names the model {config.model!r}, and building it runs code: give "
            "--trust-model (trust_model=True) if you trust whoever made this folder"
        )
    return config


def named_network(name: str, weights: Path, *, num_classes: int, size: int) -> NetworkAndShape:
    """Build a network by its name, for colour images, with weights from a file.

    Raises:
        ValueError: If the name is unknown, or the weights do not fit.
        OSError: If the file cannot be read.
    """
    net = build(name, num_classes=num_classes, channels=3, size=(size, size))
    load_weights(net, read_weights(weights), str(weights))
    return net.float().eval(), (3, size, size)
