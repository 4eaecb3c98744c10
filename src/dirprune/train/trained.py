"""Networks with the weights that they ended with: of a run, or by name with a file of weights."""

from pathlib import Path

from torch import nn

from dirprune._support.files import read_json
from dirprune.models import build_model
from dirprune.train.runs import RunFolder
from dirprune.train.weights import load_weights, read_weights

Network = tuple[nn.Module, tuple[int, int, int]]
"""A network in evaluation mode, and the shape of one of its inputs: channels, height, width."""


def trained_network(run: Path) -> Network:
    """Build the network of a run that has finished, without its data.

    Args:
        run: The folder.

    Returns:
        The network with its final weights. It takes normalised images, as in training.

    Raises:
        FileNotFoundError: If there is no such run, or it has no final weights.
        ValueError: If the files are of something else.
    """
    folder = RunFolder(run)
    if not folder.config.is_file() or not folder.weights.is_file():
        raise FileNotFoundError(
            f"{run} holds no finished run: needed are config.json and model.safetensors"
        )
    record = read_json(folder.config)
    if not {"config", "task"} <= record.keys():
        raise ValueError(
            f"{folder.config} does not say what was trained: it is of another version of dirprune"
        )
    config, task = record["config"], record["task"]
    shape = (task["channels"], *task["size"])
    net = build_model(
        config["model"],
        num_classes=task["num_classes"],
        channels=task["channels"],
        size=shape[1:],
        width=config["width"],
    )
    load_weights(net, read_weights(folder.weights), str(folder.weights))
    return net.float().eval(), shape


def named_network(name: str, weights: Path, *, num_classes: int, size: int) -> Network:
    """Build a network by its name, for colour images, with the weights of a file.

    Args:
        name: As for :func:`.models.build_model`.
        weights: A safetensors file of its state dict.
        num_classes: Number of outputs.
        size: Height and width of the images.

    Returns:
        The network with these weights.

    Raises:
        ValueError: If there is no such network, or the weights do not fit.
        OSError: If the file cannot be read.
    """
    net = build_model(name, num_classes=num_classes, channels=3, size=(size, size))
    load_weights(net, read_weights(weights), str(weights))
    return net.float().eval(), (3, size, size)
