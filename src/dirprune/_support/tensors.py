"""Writing safetensors files atomically."""

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
    """Give a file a UTF-8 path, which safetensors needs for reading.

    Args:
        path: Its name may be any bytes, as is possible on Linux.

    Yields:
        The path, or a path of the open file if the name is not UTF-8.
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
    """Write a safetensors file atomically.

    Args:
        path: The file.
        tensors: Any shapes, devices and memory formats. Tensors that share memory are each
            written.
        metadata: Strings for the file's header.
    """
    with writing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(_separate(tensors), temporary, metadata)
        except SafetensorError as error:  # for example a full disk
            raise OSError(str(error)) from error
        temporary.chmod(mode)  # safetensors makes it readable only by its owner


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors as safetensors needs them: contiguous, on the CPU, without shared memory."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        cpu = tensor.detach().cpu().contiguous()
        storage = cpu.untyped_storage().data_ptr()
        separate[name] = cpu.clone() if storage in seen else cpu
        seen.add(storage)
    return separate
