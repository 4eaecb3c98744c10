"""Reading the untrusted file of a network: ``docs/format.md`` describes every byte.

Every field is checked before it is used, and the memory that a file needs is computed and bounded
before it is allocated.
"""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.file.container import (
    HEAD,
    INDEX_LIMIT,
    MAGIC,
    NAMES,
    TUNED_VERSION,
    VERSION,
    Contents,
    Entry,
    Tensor,
    checksum,
    largest_index,
)
from dirprune.deploy.file.encode import Reader, decode
from dirprune.deploy.file.limits import check_memory, memory_limit, readable
from dirprune.deploy.file.packing import Packing, Parts, decompress, put_together
from dirprune.deploy.file.values import VALUES, ReducedValues, restore
from dirprune.deploy.graph.graph import check_names
from dirprune.deploy.graph.operators.record import LARGEST, MOST

FileOrBytes: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the bytes of a file, or a file opened for reading bytes."""

_OBJECTS = 64
"""Bytes of Python objects, at most, for each byte of an index."""


def file_bytes(source: FileOrBytes, limit: int) -> bytes:
    """Read a whole file.

    Args:
        source: A path, the bytes of a file, or a file opened for reading bytes.
        limit: Bound on the number of bytes.

    Returns:
        Its bytes.

    Raises:
        TypeError: If the source is something else.
        ValueError: If it has more bytes.
        OSError: If it cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        check_memory(Path(source).stat().st_size, limit)
        data = Path(source).read_bytes()
    elif hasattr(source, "read"):
        data = source.read(limit + 1)
        if not isinstance(data, bytes):
            raise TypeError("the file is open for reading text: open it with mode 'rb'")
    else:
        raise TypeError(
            f"expected a path, bytes or a file opened with mode 'rb', got {type(source).__name__}"
        )
    check_memory(len(data), limit)
    return data


def describe(source: FileOrBytes) -> str:
    """Name a source in a message."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "name", "the file"))


def read_file(source: FileOrBytes, max_bytes: int | None = None) -> Contents:
    """Read an untrusted file.

    Args:
        source: A path, the bytes of a file, or a file opened for reading bytes.
        max_bytes: Bound on the memory that it may need; None is half of this machine's.

    Returns:
        What is in it.

    Raises:
        ValueError: If it is not such a file, is damaged, of another version, or needs more memory.
        OSError: If it cannot be read.
    """
    limit = memory_limit(max_bytes)
    with readable(describe(source)):
        return read_contents(file_bytes(source, limit), limit)


def read_contents(data: bytes, max_bytes: int | None = None) -> Contents:
    """Read the bytes of a file, as :func:`read_file` does."""
    limit = memory_limit(max_bytes)
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it is not a file that dirprune.deploy.save wrote")
    if len(data) < HEAD.size:
        raise ValueError("the file ends in its first bytes")
    _, version, stored, size, rest, digest = HEAD.unpack_from(data)
    if version not in (VERSION, TUNED_VERSION):
        raise ValueError(
            f"it is of version {version}, this dirprune reads {VERSION} and {TUNED_VERSION}"
        )
    body = memoryview(data)[HEAD.size :]
    if size > min(INDEX_LIMIT, largest_index(stored)):
        raise ValueError(f"its index of {size} bytes is too large for {stored} stored bytes")
    if stored + rest != len(body):
        raise ValueError(f"it should have {HEAD.size + stored + rest} bytes, it has {len(data)}")
    if checksum(data[: HEAD.size - 16], body) != digest:
        raise ValueError("its checksum does not fit: the file is damaged")
    used = len(data) + _OBJECTS * size
    check_memory(used, limit)
    reader = Reader(decompress(body[:stored], size))
    section = reader.bytes(reader.take("I"))
    entries = [_entry(reader, number) for number in range(reader.count("I", MOST))]
    _check(entries)
    sizes: dict[str, int] = {}
    for stream, part in (pair for entry in entries for pair in entry.streams):
        sizes[stream] = sizes.get(stream, 0) + part
    used += sum(sizes.values()) + _decoding_bytes(entries)
    check_memory(used, limit)
    payload, streams = Reader(body[stored:]), {}
    for (stream, plain), length in zip(sizes.items(), reader.many("Q", len(sizes))):
        streams[stream] = Reader(decompress(payload.bytes(length), plain))
    tuning = reader.text_to_the_end() if version == TUNED_VERSION else ""
    reader.finish()
    payload.finish()
    arrays: list[NDArray[np.generic]] = []
    for entry in entries:
        shared = entry.layout is Packing.SHARED
        arrays.append(arrays[entry.source] if shared else _array(entry, streams))
    tensors = {
        entry.name: Tensor(entry.dtype, array)
        for entry, array in zip(entries, arrays, strict=True)
    }
    if not section:
        return Contents(None, tensors)
    if wrong := [entry.name for entry in entries if entry.dtype != "float32"]:
        raise ValueError(f"tensor {wrong[0]} of the graph is not float32")
    floats = {name: cast(NDArray[np.float32], t.array) for name, t in tensors.items()}
    return Contents(decode(section, floats), tensors, tuning)


def _decoding_bytes(entries: list[Entry]) -> int:
    """Memory for all tensors, a copy of them as a module, and the work on the largest one."""
    largest = max((entry.decoded_bytes for entry in entries), default=0)
    return 2 * sum(entry.decoded_bytes for entry in entries) + 3 * largest


def _entry(reader: Reader, number: int) -> Entry:
    name, code = reader.text(), reader.take("B")
    shape, how, arranged = reader.dims("I"), reader.take("B"), reader.take("B")
    check_names([name])
    if code >= len(NAMES) or how >= len(VALUES) or arranged >= len(Packing):
        raise ValueError(f"tensor {name} has an unknown type or layout")
    layout, size = Packing(arranged), prod(shape)
    source, nonzeros = 0, size
    if layout is Packing.SHARED:
        source = reader.take("I")
        if source >= number:
            raise ValueError(f"tensor {name} shares the elements of a later one")
    elif layout is not Packing.DENSE:
        nonzeros = reader.take("Q")
    entry = Entry(name, NAMES[code], shape, VALUES[how], layout, nonzeros, source)
    if entry.values != "float32" and (entry.dtype != "float32" or len(shape) < 2):
        raise ValueError(f"tensor {name} cannot have {entry.values} values")
    if size >= LARGEST or nonzeros > size:
        raise ValueError(f"tensor {name} with shape {shape} is too large, or marks too much")
    if layout is Packing.SIGNED and not entry.floating:
        raise ValueError(f"tensor {name} cannot have signs of zeros")
    return entry


def _check(entries: list[Entry]) -> None:
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("two tensors have one name")
    for entry in entries:
        source = entries[entry.source]
        if entry.layout is Packing.SHARED and (
            (source.dtype, source.shape) != (entry.dtype, entry.shape)
            or source.layout is Packing.SHARED
        ):
            raise ValueError(f"tensor {entry.name} cannot share the elements of {source.name}")


def _array(entry: Entry, streams: Mapping[str, Reader]) -> NDArray[np.generic]:
    parts = [np.frombuffer(streams[name].bytes(size), np.uint8) for name, size in entry.streams]
    scale = None
    if entry.values == "int8":
        scale = np.ascontiguousarray(np.stack(parts[-4:]).T).view("<f4").reshape(-1)
        parts = parts[:-4]
    apart = Parts(entry.layout, entry.nonzeros, tuple(parts))
    flat = put_together(apart, entry.stored, prod(entry.shape), entry.floating)
    if entry.dtype == "bool" and flat.size and int(flat.view(np.uint8).max()) > 1:
        raise ValueError(f"tensor {entry.name} is bool and has other values than 0 and 1")
    return restore(ReducedValues(entry.values, flat.reshape(entry.shape), scale))
