"""Writing tensors so that no file is ever half there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dirprune._support.files import writing


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """Name a file in UTF-8, as safetensors needs it to read a file.

    Args:
        path: Its name may be any bytes, as file names are on Linux.

    Yields:
        The path, or that of the open file where the path is not UTF-8.
    """
    try:
        name = os.fspath(path).encode().decode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield name


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file as a whole or not at all.

    Args:
        path: The file.
        tensors: Any shapes, devices and memory formats; those that share memory are written
            once each.
        metadata: Goes into the file's header.
    """
    with writing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(_separate(tensors), temporary, metadata)
        except SafetensorError as error:  # among them a full disk
            raise OSError(str(error)) from error
        temporary.chmod(mode)  # safetensors would leave it readable by its owner only


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as safetensors wants them: contiguous, on the CPU, sharing no memory."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        cpu = tensor.detach().cpu().contiguous()
        storage = cpu.untyped_storage().data_ptr()
        separate[name] = cpu.clone() if storage in seen else cpu
        seen.add(storage)
    return separate
