"""A graph as bytes, for the file and for the engine: little-endian, every field checked.

``docs/format.md`` describes the layout. The bytes contain the names and dimensions of the tensors,
but not their values.
"""

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import CODES
from dirprune.deploy.graph.operators.record import LONGEST, MOST, Attribute, Shape
from dirprune.deploy.graph.signature import Signature

VERSIONS = (1, 2, 3)
"""Versions of a graph without and with a signature, and with sizes that vary."""
OPS = CODES
ROLES = ("weight", "bias", "running_mean", "running_var", "scale", "shift", "value",
         "num_batches_tracked", "index")  # fmt: skip
KEYS = (
    "stride", "padding", "dilation", "groups", "activation", "activation_parameter", "eps",
    "slope", "alpha", "tanh", "dim", "scalar", "reversed", "start", "end", "step", "kernel",
    "ceil_mode", "count_include_pad", "output", "dims", "keepdim", "size", "value",
    "align_corners", "p", "momentum", "trained", "beta", "threshold", "exponent", "low", "high",
    "output_padding", "descending",
)  # fmt: skip
_OP = {op: code for code, op in enumerate(OPS)}
_ROLE = {role: code for code, role in enumerate(ROLES)}
_KEY = {key: code for code, key in enumerate(KEYS)}


def encode(graph: Graph) -> bytes:
    """Write a graph without its tensors' values.

    Args:
        graph: The graph to write.

    Returns:
        The graph section of a file.

    Example:
        >>> graph = Graph((-1, 3), (Node("relu", (0,), (-1, 3)),), 1, {})
        >>> decode(encode(graph), {}).nodes[0].op
        'relu'
    """
    version = 3 if graph.dynamic is not None else 1 if graph.signature is None else 2
    out = bytearray(struct.pack("<II", version, len(graph.tensors)))
    for name, tensor in graph.tensors.items():
        out += text(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
    number = {name: i for i, name in enumerate(graph.tensors)}
    out += _dims(graph.shape) + struct.pack("<I", len(graph.nodes))
    for node in graph.nodes:
        out += struct.pack("<B", _OP[node.op]) + text(node.path)
        out += struct.pack(f"<B{len(node.inputs)}I", len(node.inputs), *node.inputs)
        out += struct.pack("<B", len(node.tensors))
        for role, name in node.tensors.items():
            out += struct.pack("<BI", _ROLE[role], number[name])
        out += struct.pack("<B", len(node.attrs))
        for key, value in node.attrs.items():
            out += struct.pack("<B", _KEY[key]) + _attribute(value)
        out += _dims(node.shape)
    out += struct.pack("<I", graph.output)
    if version >= 2:
        out += _json("" if graph.signature is None else graph.signature.to_json())
    if graph.dynamic is not None:
        out += _json(graph.dynamic.to_json())
    return bytes(out)


def decode(data: bytes | memoryview, tensors: Mapping[str, NDArray[np.float32]]) -> Graph:
    """Read an untrusted graph.

    Args:
        data: The graph section of a file.
        tensors: The values, in the order and with the names and shapes that the section states.

    Returns:
        The graph, checked.

    Raises:
        ValueError: If anything is wrong with the bytes or does not fit the tensors.
    """
    reader = Reader(data)
    if (version := reader.take("I")) not in VERSIONS:
        raise ValueError(f"the graph is of version {version}, this dirprune reads 1 to 3")
    stated = [(reader.text(), reader.dims("I")) for _ in range(reader.count("I", MOST))]
    if stated != [(name, tensor.shape) for name, tensor in tensors.items()]:
        raise ValueError("the graph's tensors are not those that are given")
    shape = reader.dims("i")
    nodes = tuple(_node(reader, stated) for _ in range(reader.count("I", MOST)))
    output = reader.take("I")
    described = _decoded(reader.bytes(reader.take("I"))) if version >= 2 else ""
    varying = _decoded(reader.bytes(reader.take("I"))) if version == 3 else ""
    reader.finish()
    signature = Signature.from_json(described) if described or version == 2 else None
    dynamic = Dynamic.from_json(varying) if version == 3 else None
    return Graph(shape, nodes, output, tensors, signature, dynamic)


class Reader:
    """Takes fields from the front of bytes, never beyond their end.

    Args:
        data: The bytes. The fields are views of them, not copies.

    Raises:
        ValueError: From each method, if the bytes end before the field does or it is not valid.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def bytes(self, size: int) -> memoryview:
        """Take ``size`` bytes."""
        if size > len(self._data) - self._at:
            raise ValueError("the file ends in the middle of a field")
        self._at += size
        return self._data[self._at - size : self._at]

    def take(self, code: str) -> int:
        """Take one integer, by its letter in :mod:`struct`."""
        value: int = struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]
        return value

    def many(self, code: str, count: int) -> tuple[int, ...]:
        """Take several integers."""
        return struct.unpack(f"<{count}{code}", self.bytes(count * struct.calcsize("<" + code)))

    def count(self, code: str, most: int) -> int:
        """Take the number of the items that follow, each of at least one byte."""
        value = self.take(code)
        if value > min(most, len(self._data) - self._at):
            raise ValueError(f"a count of {value} is out of range")
        return value

    def text(self) -> str:
        """Take a name: its length in bytes and its UTF-8."""
        return _decoded(self.bytes(self.count("H", LONGEST)))

    def text_to_the_end(self) -> str:
        """Take UTF-8 that is followed by its length, a u32, up to the end."""
        size = len(self._data) - self._at - 4
        if size < 0:
            raise ValueError("the file ends in the middle of a field")
        taken = self.bytes(size)
        if self.take("I") != size:
            raise ValueError("the length of the tuning does not fit")
        return _decoded(taken)

    def dims(self, code: str) -> Shape:
        """Take dimensions: their number and each."""
        return self.many(code, self.count("B", 8))

    def finish(self) -> None:
        """Refuse trailing bytes."""
        if self._at < len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes follow the end")


def text(name: str) -> bytes:
    """Write a name as :meth:`Reader.text` reads it."""
    data = name.encode()
    return struct.pack("<H", len(data)) + data


def _decoded(data: bytes | memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise ValueError("a name is not UTF-8") from None


def _json(data: str) -> bytes:
    encoded = data.encode()
    return struct.pack("<I", len(encoded)) + encoded


def _dims(shape: Shape) -> bytes:
    return struct.pack(f"<B{len(shape)}i", len(shape), *shape)


def _attribute(value: Attribute) -> bytes:
    if isinstance(value, tuple):
        return struct.pack(f"<BB{len(value)}q", 2, len(value), *value)
    return (
        struct.pack("<Bd", 1, value) if isinstance(value, float) else struct.pack("<Bq", 0, value)
    )


def _node(reader: Reader, stated: list[tuple[str, Shape]]) -> Node:
    op = _name(OPS, reader.take("B"), "operator")
    path = reader.text()
    inputs = reader.many("I", reader.take("B"))
    tensors: dict[str, str] = {}
    for _ in range(reader.take("B")):
        role, number = _name(ROLES, reader.take("B"), "role"), reader.take("I")
        if number >= len(stated) or role in tensors:
            raise ValueError(f"tensor {number} as {role} is missing or duplicated")
        tensors[role] = stated[number][0]
    attrs: dict[str, Attribute] = {}
    for _ in range(reader.take("B")):
        key = _name(KEYS, reader.take("B"), "attribute")
        if key in attrs:
            raise ValueError(f"attribute {key} is duplicated")
        attrs[key] = _value(reader)
    return Node(op, inputs, reader.dims("i"), attrs, tensors, path)


def _value(reader: Reader) -> Attribute:
    kind = reader.take("B")
    if kind == 0:
        return reader.take("q")
    if kind == 1:
        return float(struct.unpack("<d", reader.bytes(8))[0])
    if kind == 2:
        return reader.many("q", reader.take("B"))
    raise ValueError(f"an attribute of type {kind} is unknown")


def _name(names: tuple[str, ...], code: int, what: str) -> str:
    if code >= len(names):
        raise ValueError(f"{what} {code} is unknown")
    return names[code]
