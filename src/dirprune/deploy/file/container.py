"""The file of a network: a graph or none, and tensors. ``docs/format.md`` describes every byte.

A file holds no code and no path.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.file.packing import Packing, part_sizes
from dirprune.deploy.file.values import Values
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.operators.record import Shape

MAGIC = b"\x89DPZ\r\n\x1a\n"
VERSION = 1
TUNED_VERSION = 2
"""Of files with the result of tuning."""
HEAD = struct.Struct("<8sIIIQ16s")
INDEX_LIMIT = 1 << 26
_INDEX_RATIO = 256
"""Largest ratio of plain to stored size, for an index over 64 KiB."""

DTYPES: Mapping[str, str] = {
    "float32": "f4", "float16": "f2", "bfloat16": "u2", "float64": "f8", "int8": "i1",
    "int16": "i2", "int32": "i4", "int64": "i8", "uint8": "u1", "uint16": "u2", "uint32": "u4",
    "uint64": "u8", "bool": "u1", "complex64": "c8", "complex128": "c16",
    "float8_e4m3fn": "u1", "float8_e5m2": "u1", "float8_e4m3fnuz": "u1", "float8_e5m2fnuz": "u1",
}  # fmt: skip
"""torch's names, in the order of their codes in a file, and numpy's types with the same bits."""
_FLOATING = {"float32", "float16", "bfloat16", "float64"}
NAMES = tuple(DTYPES)
CODES = {name: code for code, name in enumerate(DTYPES)}


class Tensor(NamedTuple):
    """A tensor of any type.

    Attributes:
        dtype: A key of :data:`DTYPES`.
        array: Its bits, of the type that :data:`DTYPES` gives.
    """

    dtype: str
    array: NDArray[np.generic]


class Contents(NamedTuple):
    """The content of a file.

    Attributes:
        graph: The network, or None if the file has only weights.
        tensors: Tensors by name; those of the graph, if there is one.
        tuning: The result of tuning as JSON, or nothing.
    """

    graph: Graph | None
    tensors: Mapping[str, Tensor]
    tuning: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's entry in the index."""

    name: str
    dtype: str
    shape: Shape
    values: Values
    layout: Packing
    nonzeros: int
    source: int = 0
    """Number of the tensor whose elements it shares, with layout SHARED."""

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
        """Bytes in memory."""
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def streams(self) -> list[tuple[str, int]]:
        """The streams of its parts, in order, and its number of bytes in each."""
        if self.layout is Packing.SHARED:
            return []
        sizes = part_sizes(self.layout, self.nonzeros, self.stored.itemsize, prod(self.shape))
        planes = [f"{self.stored.str[1:]} {k}" for k in range(self.stored.itemsize)]
        names = ["mask", "signs"][: len(sizes) - len(planes)] + planes
        scale = [(f"scale {k}", self.shape[0]) for k in range(4)] if self.values == "int8" else []
        return [*zip(names, sizes), *scale]


def largest_index(stored: int) -> int:
    """Return the largest plain size of an index of this stored size."""
    return max(1 << 16, _INDEX_RATIO * stored)


def checksum(start: bytes, body: bytes | memoryview) -> bytes:
    """Return the checksum of a file, from the start of its head and the bytes after the head."""
    digest = hashlib.blake2b(start, digest_size=16)
    digest.update(body)
    return digest.digest()
