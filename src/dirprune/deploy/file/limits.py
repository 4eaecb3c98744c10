"""The memory that a file may need, and errors that name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def memory_limit(max_bytes: int | None) -> int:
    """Return the bound, or half of this machine's memory for None.

    Raises:
        ValueError: If the bound is negative.
    """
    if max_bytes is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if max_bytes < 0:
        raise ValueError(f"max_bytes must be at least 0, got {max_bytes}")
    return max_bytes


def check_memory(needed: int, limit: int) -> None:
    """Refuse what needs more memory than is allowed.

    Raises:
        ValueError: With both numbers.
    """
    if needed > limit:
        raise ValueError(
            f"it needs up to {needed} bytes of memory, {limit} are allowed: if you trust the "
            "file, allow more by max_bytes"
        )


@contextmanager
def readable(source: object) -> Iterator[None]:
    """Name the source of an error; running out of memory is a ValueError too.

    Args:
        source: Path or description of a file.

    Raises:
        ValueError: For a ValueError or MemoryError inside.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from None
    except MemoryError:
        raise ValueError(
            f"{source} cannot be loaded: this process has too little memory for it"
        ) from None
