"""Reading weights from files and loading them into a network."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dirprune._support.tensors import utf8_path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ValueError: If it is not a safetensors file.
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


def model_tensors(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights and buffers in the tensors of a checkpoint, by their names."""
    prefix = "model."
    return {n.removeprefix(prefix): t for n, t in checkpoint.items() if n.startswith(prefix)}


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load weights and buffers, and name the first tensor that does not fit.

    Raises:
        ValueError: If a name or a shape differs.
    """
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = sorted(n for n in own | given if own.get(n) != given.get(n))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{origin} belongs to another model: {len(differing)} tensors differ, the first is "
            f"{name} (in the model {own.get(name, 'missing')}, in the file "
            f"{given.get(name, 'missing')}); give the model of the file"
        )
    net.load_state_dict(dict(tensors))
