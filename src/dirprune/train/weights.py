"""Weights from files: read and loaded, or refused in one line."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dirprune._support.tensors import utf8_path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If it is none.
        OSError: If it cannot be read, or is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder: give a file of weights, such as {path / 'model.safetensors'}"
        )
    try:
        with utf8_path(path) as name:
            return load_file(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): give one") from None


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load weights and buffers, or say in one line why they do not fit.

    Args:
        net: Any module.
        tensors: By the names of its state_dict.
        origin: Where they come from, for the message.

    Raises:
        ValueError: If a name or a shape differs.
    """
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = sorted(n for n in own | given if own.get(n) != given.get(n))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{origin}: of another model, {len(differing)} tensors differ, first {name} (here "
            f"{own.get(name, 'missing')}, there {given.get(name, 'missing')}): give the same model"
        )
    net.load_state_dict(dict(tensors))
