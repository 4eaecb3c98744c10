"""A file with the result of tuning in its index: ``docs/format.md`` describes every byte."""

import struct

from dirprune.deploy.file.container import HEAD, MAGIC, TUNED_VERSION, checksum, largest_index
from dirprune.deploy.file.packing import compress, decompress

LENGTH = struct.Struct("<I")


def with_tuning(data: bytes, tuning: str) -> bytes:
    """Put the result of tuning into a file, in the place of an older one.

    Args:
        data: A valid file.
        tuning: JSON.

    Returns:
        The new file.
    """
    _, version, stored, size, rest, _ = HEAD.unpack_from(data)
    body = memoryview(data)[HEAD.size :]
    index = bytes(decompress(body[:stored], size))
    if version == TUNED_VERSION:
        [length] = LENGTH.unpack(index[-LENGTH.size :])
        index = index[: -LENGTH.size - length]
    text = tuning.encode()
    index += text + LENGTH.pack(len(text))
    stored_index = compress(index)
    if len(index) > largest_index(len(stored_index)):
        stored_index = index
    start = HEAD.pack(MAGIC, TUNED_VERSION, len(stored_index), len(index), rest, bytes(16))[:-16]
    new = stored_index + bytes(body[stored:])
    return start + checksum(start, new) + new
