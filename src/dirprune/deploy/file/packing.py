"""Arrays taken apart so that they compress: where the zeros are, and the bytes of the others.

Weights do not repeat, so what a compressor can find is the skewed distribution of exponents and
of the zeros. Three steps lay both bare, before zstandard sees anything: zeros become a bit mask;
the bits of floating-point numbers are rotated by one, so that a byte holds the exponent without
the sign; and first bytes, second bytes and so on become a plane each.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import zstandard
from numpy.typing import NDArray

LEVEL = 19
"""Of zstandard: the best below its modes for gigabytes of memory."""
_BLOCK = 1 << 17  # bytes that one block of a zstandard frame, itself 4 bytes or more, decodes to

Bytes = NDArray[np.uint8]


class Layout(IntEnum):
    """How the elements of an array are arranged."""

    DENSE = 0
    MASKED = 1
    SIGNED = 2
    """Masked, with the signs of the zeros: multiplying by a mask leaves many a -0.0."""


@dataclass(frozen=True)
class Parts:
    """An array, taken apart.

    Attributes:
        layout: Which parts there are.
        nonzeros: Number of elements that are not zero; of all where dense.
        parts: Where not dense, bits that mark what is not zero; where signed, bits that mark -0.0
            among the zeros; then one plane for every byte of the elements that are not zero.
    """

    layout: Layout
    nonzeros: int
    parts: tuple[Bytes, ...]


def take_apart(array: NDArray[np.generic], floating: bool) -> Parts:
    """Bring an array into the layout that compresses best; every bit is kept.

    Args:
        array: Any shape, of numbers with a fixed size.
        floating: Whether the highest bit is a sign, and exponent and mantissa follow.

    Returns:
        What :func:`put_together` turns into the same bits.

    Example:
        >>> weights = np.array([0, 0, 0, -2, 0], np.float32)
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
    dense = Parts(Layout.DENSE, size, tuple(planes))
    if count == size:
        return dense
    marks, signs = [nonzero], planes[0, ~nonzero] if floating else np.zeros(0, np.uint8)
    layout = Layout.SIGNED if signs.any() else Layout.MASKED
    if layout is Layout.SIGNED:
        marks.append(signs.astype(bool))
    bits = [np.packbits(mark, bitorder="little") for mark in marks]
    masked = Parts(layout, count, (*bits, *planes[:, nonzero]))
    # Many zeros cost more in every plane than once in a mask; few are tried both ways.
    return masked if 2 * count < size else min(masked, dense, key=_quick_size)


def put_together(
    apart: Parts, dtype: np.dtype[np.generic], size: int, floating: bool
) -> NDArray[np.generic]:
    """Undo :func:`take_apart` of data that nobody vouches for.

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
    kept = np.stack(apart.parts[len(apart.parts) - dtype.itemsize :])
    if apart.layout is Layout.DENSE:
        return _elements(kept, dtype, floating)
    nonzero = _bits(apart.parts[0], size)
    if int(nonzero.sum()) != apart.nonzeros:
        raise ValueError("a mask does not mark as many elements as it should")
    array = np.zeros(size, dtype)
    array[nonzero] = _elements(kept, dtype, floating)
    if apart.layout is Layout.SIGNED:
        zeros = np.zeros((dtype.itemsize, size - apart.nonzeros), np.uint8)
        zeros[0] = _bits(apart.parts[1], size - apart.nonzeros)
        array[~nonzero] = _elements(zeros, dtype, floating)
    return array


def part_sizes(layout: Layout, nonzeros: int, itemsize: int, size: int) -> tuple[int, ...]:
    """Return the size of every part.

    Args:
        layout: Which parts there are.
        nonzeros: Number of elements that are not zero.
        itemsize: Bytes of an element.
        size: Number of elements.

    Returns:
        Sizes in bytes.
    """
    if layout is Layout.DENSE:
        return (size,) * itemsize
    masks = [size] if layout is Layout.MASKED else [size, size - nonzeros]
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


def _elements(planes: Bytes, dtype: np.dtype[np.generic], floating: bool) -> NDArray[np.generic]:
    flat: NDArray[np.generic] = np.ascontiguousarray(planes.T).reshape(-1)
    if floating:
        bits = flat.view(_unsigned(dtype))
        flat = (bits >> 1) | (bits << (8 * dtype.itemsize - 1))
    native: NDArray[np.generic] = flat.view(dtype.newbyteorder("<")).astype(dtype, copy=False)
    return native


def _unsigned(dtype: np.dtype[np.generic]) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{dtype.itemsize}")


def _bits(packed: Bytes, size: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(packed, bitorder="little")
    if bits[size:].any():
        raise ValueError("a mask goes on behind its end")
    return bits[:size].view(bool)


def compress(data: bytes) -> bytes:
    """Compress bytes; those that do not become smaller stay as they are."""
    # A quick try spares the mantissas, most of all bytes, which look random to every level.
    for level in (1, LEVEL):
        compressed: bytes = zstandard.ZstdCompressor(level=level).compress(data)
        if len(compressed) >= len(data):
            return data
    return compressed


def decompress(data: bytes, size: int) -> bytes:
    """Undo :func:`compress` of data that nobody vouches for.

    Args:
        data: What is decompressed.
        size: How many bytes it was.

    Returns:
        So many bytes.

    Raises:
        ValueError: If it is anything else; nothing larger is allocated then.
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
