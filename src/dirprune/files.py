"""Writing files so that none is ever half there, and saying in one line why it failed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the file or folder.

    Args:
        path: What is being written.

    Raises:
        OSError: Of the same kind as the failure.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"cannot write {path} ({error}): is the disk full?") from error
    except OSError as error:
        advice = "make room or choose another folder"
        raise type(error)(f"cannot write {path} ({error.strerror or error}): {advice}") from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a file as a whole or not at all.

    Args:
        path: What is to be written; its folder is made if need be.

    Yields:
        A path in the same folder to write to; it takes the place of ``path`` once its bytes are
        on disk, and disappears if anything fails.

    Raises:
        OSError: If the disk is full or not writable; the message names ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file as a whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the file holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): the file is damaged") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: it is not of dirprune")
    return value


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
        save_file(_separate(tensors), temporary, metadata)
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


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
