"""Arrays split into parts that compress well: a mask of the zeros, and bytes of the nonzeros.

Weights have no repetitions. A compressor can only use the skewed distribution of the exponents and
of the zeros. Three steps expose both to zstandard: zeros become a bit mask; the bits of
floating-point numbers are rotated by one, so that one byte holds the exponent without the sign;
and all first bytes, all second bytes and so on are stored as one plane each. Negative zeros become
0.0.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import zstandard
from numpy.typing import NDArray

LEVEL = 19
"""Of zstandard: the best below its modes for gigabytes of memory."""
_BLOCK = 1 << 17  # bytes at most that a block of a zstandard frame (at least 4 bytes) decodes to

Bytes = NDArray[np.uint8]


class Packing(IntEnum):
    """Storage layouts of the elements of an array."""

    DENSE = 0
    MASKED = 1
    SIGNED = 2
    """Masked, with the signs of the zeros: written by version 0.1 only."""
    SHARED = 3
    """Not stored: the elements are those of an earlier tensor."""


@dataclass(frozen=True)
class Parts:
    """An array, split into parts.

    Attributes:
        layout: The layout, which determines the parts.
        nonzeros: Number of elements that are not zero; all elements if dense.
        parts: Unless dense, the bit mask of the nonzero elements. Then one plane for each byte of
            the nonzero elements.
    """

    layout: Packing
    nonzeros: int
    parts: tuple[Bytes, ...]


def take_apart(array: NDArray[np.generic], floating: bool) -> Parts:
    """Split an array into the parts that compress best.

    Args:
        array: Any shape, of numbers with a fixed size.
        floating: Whether the highest bit is a sign, and exponent and mantissa follow.

    Returns:
        The parts. :func:`put_together` returns the same bits, except that -0.0 becomes 0.0.

    Example:
        >>> weights = np.array([0, -0.0, 0, -2, 0], np.float32)
        >>> apart = take_apart(weights, floating=True)
        >>> apart.layout.name, [part.tolist() for part in apart.parts]
        ('MASKED', [[8], [1], [0], [0], [128]])
        >>> put_together(apart, weights.dtype, 5, floating=True)
        array([ 0.,  0.,  0., -2.,  0.], dtype=float32)
    """
    planes = _planes(array, floating)
    size = planes.shape[1]
    first = planes[0] >> 1 if floating else planes[0]  # rotated, the lowest bit is the sign
    nonzero: NDArray[np.bool_] = (first != 0) | np.any(planes[1:], axis=0)
    count = int(nonzero.sum())
    if count == size:
        return Parts(Packing.DENSE, size, tuple(planes))
    if floating:
        planes[0, ~nonzero] = 0  # no negative zeros
    mask = np.packbits(nonzero, bitorder="little")
    masked = Parts(Packing.MASKED, count, (mask, *planes[:, nonzero]))
    # Many zeros are cheaper in one mask than in every plane. With few zeros both ways are tried.
    dense = Parts(Packing.DENSE, size, tuple(planes))
    return masked if 2 * count < size else min(masked, dense, key=_quick_size)


def put_together(
    apart: Parts, dtype: np.dtype[np.generic], size: int, floating: bool
) -> NDArray[np.generic]:
    """Undo :func:`take_apart` on untrusted data.

    Args:
        apart: Parts, each as large as :func:`part_sizes` says.
        dtype: Of the elements.
        size: Number of elements.
        floating: As it was for :func:`take_apart`.

    Returns:
        The elements, with shape (size,).

    Raises:
        ValueError: If a mask contradicts the sizes.
    """
    kept = _elements(apart.parts[len(apart.parts) - dtype.itemsize :], dtype, floating)
    if apart.layout is Packing.DENSE:
        return kept
    nonzero = _bits(apart.parts[0], size)
    if int(nonzero.sum()) != apart.nonzeros:
        raise ValueError("a mask does not mark as many elements as it should")
    array = np.zeros(size, dtype)
    array[nonzero] = kept
    if apart.layout is Packing.SIGNED:
        negative = _bits(apart.parts[1], size - apart.nonzeros).astype(_unsigned(dtype))
        array.view(_unsigned(dtype))[~nonzero] = negative << (8 * dtype.itemsize - 1)
    return array


def part_sizes(layout: Packing, nonzeros: int, itemsize: int, size: int) -> tuple[int, ...]:
    """Return the size of every part.

    Args:
        layout: Which parts there are.
        nonzeros: Number of elements that are not zero.
        itemsize: Bytes of an element.
        size: Number of elements.

    Returns:
        Sizes in bytes.
    """
    if layout is Packing.SHARED:
        return ()
    if layout is Packing.DENSE:
        return (size,) * itemsize
    masks = [size] if layout is Packing.MASKED else [size, size - nonzeros]
    return (*(-(-bits // 8) for bits in masks), *(nonzeros,) * itemsize)


def _quick_size(apart: Parts) -> int:
    compressor = zstandard.ZstdCompressor(level=1)
    return sum(len(compressor.compress(part.tobytes())) for part in apart.parts)


def _planes(array: NDArray[np.generic], floating: bool) -> Bytes:
    """The bytes of every element, least significant first, with shape (itemsize, size)."""
    flat = array.reshape(-1)
    flat = np.ascontiguousarray(flat.astype(flat.dtype.newbyteorder("<"), copy=False))
    if floating:
        bits = flat.view(_unsigned(flat.dtype))
        flat = (bits << 1) | (bits >> (8 * flat.dtype.itemsize - 1))
    return np.ascontiguousarray(flat.view(np.uint8).reshape(flat.size, array.dtype.itemsize).T)


def _elements(
    planes: tuple[Bytes, ...], dtype: np.dtype[np.generic], floating: bool
) -> NDArray[np.generic]:
    table = np.empty((planes[0].size, len(planes)), np.uint8)
    for byte, plane in enumerate(planes):
        table[:, byte] = plane
    flat: NDArray[np.generic] = table.reshape(-1)
    if floating:
        rotated = flat.view(_unsigned(dtype))
        bits = rotated >> 1
        rotated <<= 8 * dtype.itemsize - 1
        bits |= rotated
        flat = bits
    native: NDArray[np.generic] = flat.view(dtype.newbyteorder("<")).astype(dtype, copy=False)
    return native


def _unsigned(dtype: np.dtype[np.generic]) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{dtype.itemsize}")


def _bits(packed: Bytes, size: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(packed, bitorder="little")
    if bits[size:].any():
        raise ValueError("a mask has bits behind its end")
    return bits[:size].view(bool)


def compress(data: bytes) -> bytes:
    """Compress bytes; those that do not become smaller are returned as they are."""
    # Most bytes are those of mantissas, which no level compresses: a quick try recognizes them.
    for level in (1, LEVEL):
        compressed: bytes = zstandard.ZstdCompressor(level=level).compress(data)
        if len(compressed) >= len(data):
            return data
    return compressed


def decompress(data: bytes | memoryview, size: int) -> bytes | memoryview:
    """Undo :func:`compress` on untrusted data.

    Args:
        data: Compressed bytes.
        size: Number of bytes before compression.

    Returns:
        ``size`` bytes.

    Raises:
        ValueError: If the data is not a stream of that size. Nothing larger is allocated.
    """
    if len(data) == size:
        return data
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != size or size > len(data) // 4 * _BLOCK or frame.dict_id:
            raise ValueError(f"a stream does not decompress to {size} bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        plain: bytes = decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"a stream is damaged ({error})") from None
    if len(plain) != size:
        raise ValueError(f"a stream does not decompress to {size} bytes")
    return plain
