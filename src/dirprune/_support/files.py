"""Writing files so that none is ever half there, and saying in one line why it failed."""

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NOT_FOR_WANT_OF_ROOM = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


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
    except OSError as error:
        room = "" if error.errno in _NOT_FOR_WANT_OF_ROOM else "make room or "
        advice = f"{room}choose another folder"
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
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


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
