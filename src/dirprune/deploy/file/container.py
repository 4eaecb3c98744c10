"""The file of a network: a graph or none, and tensors. ``docs/format.md`` has it byte by byte.

Nothing in a file is code or a path, and every field is checked before it is used.
"""

import hashlib
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.file.encode import Reader, decode, encode, text
from dirprune.deploy.file.packing import (
    Bytes,
    Layout,
    Parts,
    compress,
    decompress,
    part_sizes,
    put_together,
    take_apart,
)
from dirprune.deploy.file.values import VALUES, Reduced, Values, reduce, restore
from dirprune.deploy.graph.graph import Graph, check_names
from dirprune.deploy.graph.operators import LARGEST, MOST, Shape

MAGIC = b"\x89DPZ\r\n\x1a\n"
VERSION = 1
_HEAD = struct.Struct("<8sIIIQ16s")
_INDEX_LIMIT = 1 << 26

DTYPES: Mapping[str, str] = {
    "float32": "f4", "float16": "f2", "bfloat16": "u2", "float64": "f8", "int8": "i1",
    "int16": "i2", "int32": "i4", "int64": "i8", "uint8": "u1", "uint16": "u2", "uint32": "u4",
    "uint64": "u8", "bool": "u1", "complex64": "c8", "complex128": "c16",
    "float8_e4m3fn": "u1", "float8_e5m2": "u1", "float8_e4m3fnuz": "u1", "float8_e5m2fnuz": "u1",
}  # fmt: skip
"""torch's names, in the order of their codes in a file, and numpy's types with the same bits."""
_FLOATING = {"float32", "float16", "bfloat16", "float64"}
_CODE = {name: code for code, name in enumerate(DTYPES)}


class Tensor(NamedTuple):
    """A tensor of any type.

    Attributes:
        dtype: A key of :data:`DTYPES`.
        array: Its bits, of the type that :data:`DTYPES` gives.
    """

    dtype: str
    array: NDArray[np.generic]


class Contents(NamedTuple):
    """What is in a file.

    Attributes:
        graph: The network, if the file has more than weights.
        tensors: By name; those of the graph, if there is one.
    """

    graph: Graph | None
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Entry:
    """A tensor's line in the index."""

    name: str
    dtype: str
    shape: Shape
    values: Values
    layout: Layout
    nonzeros: int

    @property
    def stored(self) -> "np.dtype[np.generic]":
        """Type of the stored elements."""
        return np.dtype({"float16": "f2", "int8": "i1"}.get(self.values, DTYPES[self.dtype]))

    @property
    def floating(self) -> bool:
        """Whether the stored elements have sign, exponent and mantissa."""
        return self.values != "int8" and self.dtype in _FLOATING

    @property
    def decoded_bytes(self) -> int:
        """What it takes in memory."""
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def streams(self) -> list[tuple[str, int]]:
        """Which streams hold its parts, in order, and how many bytes of each are its own."""
        sizes = part_sizes(self.layout, self.nonzeros, self.stored.itemsize, prod(self.shape))
        planes = [f"{self.stored.str[1:]} {k}" for k in range(self.stored.itemsize)]
        names = ["mask", "signs"][: len(sizes) - len(planes)] + planes
        scale = [(f"scale {k}", self.shape[0]) for k in range(4)] if self.values == "int8" else []
        return [*zip(names, sizes), *scale]


def write_contents(contents: Contents, values: Values = "float32") -> bytes:
    """Make a file of a network.

    Args:
        contents: The graph, or None, and all tensors.
        values: What the values of weights become, as in `file.values.reduce`.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: If a name, shape or type has no place in a file.
    """
    check_names(contents.tensors)
    if len(contents.tensors) > MOST:
        raise ValueError(f"{len(contents.tensors)} tensors are more than the {MOST} of a file")
    section = b"" if contents.graph is None else encode(contents.graph)
    index = bytearray(struct.pack("<I", len(section)) + section)
    index += struct.pack("<I", len(contents.tensors))
    streams: dict[str, list[bytes]] = {}
    for name, tensor in contents.tensors.items():
        entry, parts = _dismantled(name, tensor, values)
        index += _line(entry)
        for (stream, _), part in zip(entry.streams, parts, strict=True):
            streams.setdefault(stream, []).append(part.tobytes())
    with ThreadPoolExecutor() as threads:  # zstandard leaves the interpreter's lock
        stored = list(threads.map(lambda parts: compress(b"".join(parts)), streams.values()))
    index += struct.pack(f"<{len(stored)}Q", *map(len, stored))
    stored_index = compress(bytes(index))
    body = stored_index + b"".join(stored)
    start = _HEAD.pack(
        MAGIC, VERSION, len(stored_index), len(index), len(body) - len(stored_index), bytes(16)
    )[:-16]
    return start + _digest(start, body) + body


def read_file(path: str | Path, max_bytes: int = 8 << 30) -> Contents:
    """Read a file that nobody vouches for.

    Args:
        path: Which.
        max_bytes: What its tensors may need in memory at most.

    Returns:
        What is in it.

    Raises:
        ValueError: If it is no such file, is damaged, of another version, or larger.
        OSError: If it cannot be read.
    """
    try:
        return read_contents(Path(path).read_bytes(), max_bytes)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from None


def read_contents(data: bytes, max_bytes: int = 8 << 30) -> Contents:
    """Read the bytes of a file, as :func:`read_file` does."""
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it is not a file that dirprune.deploy.save wrote")
    if len(data) < _HEAD.size:
        raise ValueError("the file ends in its first bytes")
    _, version, stored, size, rest, digest = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"it is of version {version}, this dirprune reads {VERSION}")
    body = data[_HEAD.size :]
    if stored + rest != len(body) or size > _INDEX_LIMIT:
        raise ValueError(f"it should have {_HEAD.size + stored + rest} bytes, it has {len(data)}")
    if _digest(data[: _HEAD.size - 16], body) != digest:
        raise ValueError("its checksum does not fit: the file is damaged")
    reader = Reader(decompress(body[:stored], size))
    section = reader.bytes(reader.take("I"))
    entries = [_entry(reader) for _ in range(reader.count("I", MOST))]
    _check(entries, max_bytes)
    sizes: dict[str, int] = {}
    for stream, part in (pair for entry in entries for pair in entry.streams):
        sizes[stream] = sizes.get(stream, 0) + part
    payload, streams = Reader(body[stored:]), {}
    for (stream, plain), length in zip(sizes.items(), reader.many("Q", len(sizes))):
        streams[stream] = Reader(decompress(payload.bytes(length), plain))
    reader.finish()
    payload.finish()
    tensors = {entry.name: Tensor(entry.dtype, _array(entry, streams)) for entry in entries}
    if not section:
        return Contents(None, tensors)
    if wrong := [entry.name for entry in entries if entry.dtype != "float32"]:
        raise ValueError(f"tensor {wrong[0]} of the graph is not float32")
    arrays = {name: cast(NDArray[np.float32], t.array) for name, t in tensors.items()}
    return Contents(decode(section, arrays), tensors)


def _digest(start: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(start + body, digest_size=16).digest()


def _dismantled(name: str, tensor: Tensor, values: Values) -> tuple[_Entry, list[Bytes]]:
    shape = tensor.array.shape
    if len(shape) > 8 or prod(shape) >= LARGEST or max(shape, default=0) >= 1 << 31:
        raise ValueError(f"tensor {name} with shape {shape} is too large for a file")
    small = reduce(tensor.array, values)
    entry = _Entry(name, tensor.dtype, shape, small.values, Layout.DENSE, prod(shape))
    apart = take_apart(small.array, entry.floating)
    entry = replace(entry, layout=apart.layout, nonzeros=apart.nonzeros)
    scale = (
        () if small.scale is None else small.scale.astype("<f4").view(np.uint8).reshape(-1, 4).T
    )
    return entry, [*apart.parts, *scale]


def _line(entry: _Entry) -> bytes:
    line = text(entry.name) + struct.pack("<B", _CODE[entry.dtype])
    line += struct.pack(f"<B{len(entry.shape)}I", len(entry.shape), *entry.shape)
    line += struct.pack("<BB", VALUES.index(entry.values), entry.layout)
    return line if entry.layout is Layout.DENSE else line + struct.pack("<Q", entry.nonzeros)


def _entry(reader: Reader) -> _Entry:
    name, code = reader.text(), reader.take("B")
    shape, how, arranged = reader.dims("I"), reader.take("B"), reader.take("B")
    check_names([name])
    if code >= len(DTYPES) or how >= len(VALUES) or arranged >= len(Layout):
        raise ValueError(f"tensor {name} is of an unknown type or layout")
    layout, size = Layout(arranged), prod(shape)
    nonzeros = size if layout is Layout.DENSE else reader.take("Q")
    entry = _Entry(name, list(DTYPES)[code], shape, VALUES[how], layout, nonzeros)
    if entry.values != "float32" and (entry.dtype != "float32" or len(shape) < 2):
        raise ValueError(f"tensor {name} cannot have {entry.values} values")
    if size >= LARGEST or nonzeros > size:
        raise ValueError(f"tensor {name} with shape {shape} is too large, or marks too much")
    if layout is Layout.SIGNED and not entry.floating:
        raise ValueError(f"tensor {name} cannot have signs of zeros")
    return entry


def _check(entries: list[_Entry], max_bytes: int) -> None:
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("two tensors have one name")
    if (total := sum(entry.decoded_bytes for entry in entries)) > max_bytes:
        raise ValueError(f"its tensors need {total} bytes of memory: allow so many by max_bytes")


def _array(entry: _Entry, streams: Mapping[str, Reader]) -> NDArray[np.generic]:
    parts = [np.frombuffer(streams[name].bytes(size), np.uint8) for name, size in entry.streams]
    scale = None
    if entry.values == "int8":
        scale = np.ascontiguousarray(np.stack(parts[-4:]).T).view("<f4").reshape(-1)
        parts = parts[:-4]
    apart = Parts(entry.layout, entry.nonzeros, tuple(parts))
    flat = put_together(apart, entry.stored, prod(entry.shape), entry.floating)
    if entry.dtype == "bool" and flat.size and int(flat.view(np.uint8).max()) > 1:
        raise ValueError(f"tensor {entry.name} is bool and has other values than 0 and 1")
    return restore(Reduced(entry.values, flat.reshape(entry.shape), scale))
