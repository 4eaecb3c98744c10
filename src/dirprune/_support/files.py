"""Writing files atomically, with errors that name the file."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_UNRELATED_TO_SPACE = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT,
    errno.EISDIR,
)  # fmt: skip


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Replace the message of a failed write by one that names the file or folder.

    Raises:
        OSError: Of the same type as the original error.
    """
    try:
        yield
    except OSError as error:
        room = "" if error.errno in _UNRELATED_TO_SPACE else "make room or "
        advice = f"{room}choose another folder"
        raise type(error)(f"cannot write {path} ({error.strerror or error}): {advice}") from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a file atomically.

    Args:
        path: The file to write; its folder is created if necessary. A symbolic link is replaced,
            not followed.

    Yields:
        A path to write to, in a private folder beside ``path``. The file is renamed to ``path``
        once its bytes are on disk, and removed if anything fails.

    Raises:
        IsADirectoryError: If there is a folder of this name.
        OSError: If the disk is full or not writable; the message names ``path``.
    """
    _refuse_folder(path)
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _private_folder(path) as folder:
            temporary = folder / path.name
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                _flush(path.parent)


def check_writable(path: Path) -> None:
    """Refuse a file that :func:`writing` could not write, before the work for it begins.

    Raises:
        IsADirectoryError: If there is a folder of this name.
        OSError: If the file's folder is not writable.
    """
    _refuse_folder(path)
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _private_folder(path):
            pass


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{path} is a folder: give a file")


def expand_user(path: str) -> Path:
    """Replace a leading ``~``; unlike ``Path.expanduser``, keep it if there is no such home."""
    return Path(os.path.expanduser(path))


@contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """Make a folder that other users cannot write to, locked while the process uses it.

    It is a folder because some writers create temporary files beside the given path.
    """
    while True:
        folder = Path(mkdtemp(prefix=f".{path.name[:200]}.", suffix=".part", dir=path.parent))
        descriptor = _lock(folder)
        if folder.is_dir():  # otherwise another writer has removed it before it was locked
            break
        _close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(descriptor)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed writers, those of the final file ``name`` or all."""
    with os.scandir(folder) as entries:
        found = [e for e in entries if e.name.startswith(".") and e.name.endswith(".part")]
    for entry in found:
        match = _LEFTOVER.fullmatch(entry.name)
        if match is None or entry.is_symlink() or name not in (None, match["name"]):
            continue
        descriptor = _lock(Path(entry.path), wait=False)
        if descriptor is not None:  # the process that wrote it has ended
            if entry.is_dir():
                shutil.rmtree(entry.path, ignore_errors=True)
            else:  # version 0.1 wrote temporary files instead of folders
                Path(entry.path).unlink(missing_ok=True)
            _close(descriptor)


_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?:[a-z0-9_]{8}|[0-9]+\.[0-9]+)\.part", re.DOTALL)


def _lock(path: Path, *, wait: bool = True) -> int | None:
    """Lock a file or folder; return None if that is not possible."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # it is still being written, or the file system has no locks
        os.close(descriptor)
        return None
    return descriptor


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If the text is not JSON, or is nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"too deeply nested: {error}") from None


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text, so it is damaged: restore it") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: If the file holds something else.
    """
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}), so it is damaged: restore it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object, so dirprune did not write it: restore it")
    return value


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
