"""A lock on a folder: two processes never write the same run, comparison or survey."""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from dirprune._support.files import naming_errors, remove_leftovers

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
"""File in a locked folder that describes the holder. It remains only after a kill -9."""

TIMEOUT = 1.0
"""Seconds to wait for a lock: a killed process with much memory needs a moment to end."""

RACES = 0.2
"""Seconds to try again while a holder may be removing the folder."""

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_held: set[int] = set()
_log = logging.getLogger(__name__)


class FolderInUse(ValueError):
    """Another process writes the folder."""


@contextmanager
def locked(folder: Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold an exclusive lock on a folder.

    The operating system releases the lock (``flock``) when the process ends for any reason. The
    file that a killed process leaves behind does not lock the folder. On file systems without
    locks, a warning is logged and the folder is not protected.

    Temporary files of killed writers are removed once the lock is held.

    Args:
        folder: It is created if it does not exist, and then removed again if it is still empty at
            the end.
        timeout: Seconds to wait for another holder.

    Raises:
        FolderInUse: If another process, or another thread of this one, holds the lock.
        NotADirectoryError: If the folder, or one above it, is a file.
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder), locked(folder):
        ...     pass
        Traceback (most recent call last):
        dirprune._support.lock.FolderInUse: ...
    """
    if file := next(filter(_is_file, (folder, *folder.parents)), None):
        raise NotADirectoryError(f"{file} is a file: give a folder")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with naming_errors(folder):
        descriptor = _acquire(folder, timeout)
    owner = os.getpid()
    _held.add(descriptor)
    try:
        remove_leftovers(folder)
        yield
    finally:
        if os.getpid() == owner:  # a forked child holds no lock
            (folder / NAME).unlink(missing_ok=True)
            _held.discard(descriptor)
            os.close(descriptor)
            with contextlib.suppress(OSError):  # not empty
                for path in created:
                    path.rmdir()


def _is_file(path: Path) -> bool:
    # One call: a holder may remove the folder between `exists` and `is_dir`.
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _acquire(folder: Path, timeout: float) -> int:
    path = folder / NAME
    while True:
        descriptor = _open(path)
        try:
            _lock(descriptor, folder, timeout)
            if _is_open_as(descriptor, path):
                os.truncate(descriptor, 0)
                os.write(descriptor, json.dumps(_holder()).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open the file of the lock; make it, and its folder, if necessary."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    until = time.monotonic() + RACES
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)
        except (FileNotFoundError, FileExistsError):  # noqa: PERF203
            # The previous holder may have removed the folder between these calls. In a removed
            # working folder, in /proc, or over a file, both errors are permanent.
            if time.monotonic() > until:
                raise


def _is_open_as(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file: a holder may have removed it since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, folder: Path, timeout: float) -> None:
    if fcntl is None:
        return _log.warning("%s is not locked: this platform has no flock", folder)
    until = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise FolderInUse(
                    f"{folder} is in use{_describe(descriptor)}: wait until it ends, stop it, or "
                    "choose another folder"
                ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return _log.warning(
                "%s is not locked (%s): start only one process", folder, error.strerror
            )
        time.sleep(0.05)


def _holder() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _describe(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
        return f" by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # not written yet
        return " by another process"


def _close_inherited() -> None:
    """Close the locks in a forked child, so that they end with the process that took them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
