"""Writing the file of a network: ``docs/format.md`` describes every byte."""

import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.file.container import (
    CODES,
    HEAD,
    MAGIC,
    VERSION,
    Contents,
    Entry,
    Tensor,
    checksum,
    largest_index,
)
from dirprune.deploy.file.encode import encode, text
from dirprune.deploy.file.packing import Bytes, Packing, compress, take_apart
from dirprune.deploy.file.values import VALUES, Values, reduce
from dirprune.deploy.graph.graph import check_names
from dirprune.deploy.graph.operators.record import LARGEST, MOST

_SHARE_FROM = 1 << 10
"""Tensors with the same elements are stored once from this number of bytes on."""
_REAL_PART = {"complex64": "f4", "complex128": "f8"}
_FLOAT8_WITH_SIGNED_ZEROS = ("float8_e4m3fn", "float8_e5m2")


def write_contents(contents: Contents, values: Values = "float32") -> bytes:
    """Make a file of a network.

    Args:
        contents: The graph, or None, and all tensors.
        values: What the values of weights become, as in `file.values.reduce`.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: If a file cannot hold a name, shape or type.
    """
    check_names(contents.tensors)
    if len(contents.tensors) > MOST:
        raise ValueError(f"a file holds at most {MOST} tensors, got {len(contents.tensors)}")
    section = b"" if contents.graph is None else encode(contents.graph)
    index = bytearray(struct.pack("<I", len(section)) + section)
    index += struct.pack("<I", len(contents.tensors))
    streams: dict[str, list[bytes]] = {}
    stored_already: dict[bytes, int] = {}
    for number, (name, tensor) in enumerate(contents.tensors.items()):
        source = stored_already.setdefault(_identity(tensor, number), number)
        entry, parts = _dismantled(name, tensor, values, source if source < number else None)
        index += _line(entry)
        for (stream, _), part in zip(entry.streams, parts, strict=True):
            streams.setdefault(stream, []).append(part.tobytes())
    with ThreadPoolExecutor() as threads:  # zstandard releases the interpreter's lock
        stored = list(threads.map(lambda parts: compress(b"".join(parts)), streams.values()))
    index += struct.pack(f"<{len(stored)}Q", *map(len, stored))
    stored_index = compress(bytes(index))
    if len(index) > largest_index(len(stored_index)):
        stored_index = bytes(index)
    body = stored_index + b"".join(stored)
    start = HEAD.pack(
        MAGIC, VERSION, len(stored_index), len(index), len(body) - len(stored_index), bytes(16)
    )[:-16]
    return start + checksum(start, body) + body


def _identity(tensor: Tensor, number: int) -> bytes:
    """Equal for tensors whose elements are stored once."""
    if tensor.array.nbytes < _SHARE_FROM:
        return str(number).encode()
    digest = hashlib.blake2b(f"{tensor.dtype} {tensor.array.shape} ".encode())
    digest.update(np.ascontiguousarray(tensor.array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _dismantled(
    name: str, tensor: Tensor, values: Values, source: int | None
) -> tuple[Entry, list[Bytes]]:
    shape = tensor.array.shape
    if len(shape) > 8 or prod(shape) >= LARGEST or max(shape, default=0) >= 1 << 31:
        raise ValueError(f"tensor {name} with shape {shape} is too large for a file")
    if source is not None:
        return Entry(name, tensor.dtype, shape, "float32", Packing.SHARED, 0, source), []
    small = reduce(_with_positive_zeros(tensor), values)
    entry = Entry(name, tensor.dtype, shape, small.values, Packing.DENSE, prod(shape))
    apart = take_apart(small.array, entry.floating)
    entry = replace(entry, layout=apart.layout, nonzeros=apart.nonzeros)
    scale = (
        () if small.scale is None else small.scale.astype("<f4").view(np.uint8).reshape(-1, 4).T
    )
    return entry, [*apart.parts, *scale]


def _with_positive_zeros(tensor: Tensor) -> NDArray[np.generic]:
    """Replace -0.0 in types whose sign bit :func:`take_apart` does not know."""
    if tensor.dtype in _FLOAT8_WITH_SIGNED_ZEROS:
        return np.where(tensor.array == 0x80, 0, tensor.array).astype(np.uint8)
    if tensor.dtype in _REAL_PART:
        parts = np.array(tensor.array, order="C").reshape(-1).view(_REAL_PART[tensor.dtype])
        parts[parts == 0] = 0
        return parts.view(tensor.array.dtype).reshape(tensor.array.shape)
    return tensor.array


def _line(entry: Entry) -> bytes:
    line = text(entry.name) + struct.pack("<B", CODES[entry.dtype])
    line += struct.pack(f"<B{len(entry.shape)}I", len(entry.shape), *entry.shape)
    line += struct.pack("<BB", VALUES.index(entry.values), entry.layout)
    if entry.layout is Packing.SHARED:
        return line + struct.pack("<I", entry.source)
    return line if entry.layout is Packing.DENSE else line + struct.pack("<Q", entry.nonzeros)
