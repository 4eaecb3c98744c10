"""Arguments and results of networks that do not map one tensor to one tensor.

A graph has one input and one output. Several tensors are flattened after the batch and
concatenated in them. A :class:`Signature` describes their order and sizes, and the nested
structure of the network's arguments and results.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

from dirprune.deploy.graph.operators.record import Shape

Kind = Literal["float", "int", "bool"]
Structure = dict[str, Any]
"""Nested as JSON: ``leaf`` (a number), ``tuple``, ``list``, ``dict``, or ``value`` (a literal)."""


@dataclass(frozen=True)
class Slot:
    """One tensor of the input or output.

    Attributes:
        shape: Shape in the graph, with the batch first.
        kind: Kind of its elements; integers and booleans are stored as float32.
        sizes: Sizes in the network, with ``-c`` for c times the batch, in any dimension. An output
            without the batch is the same for every sample.
        place: Number of the graph's dimensions before the batch.
    """

    shape: Shape
    kind: Kind
    sizes: Shape
    place: int = 0

    @property
    def size(self) -> int:
        """Elements per sample."""
        return prod(self.shape[1:])


@dataclass(frozen=True)
class Signature:
    """The arguments and the result of a network.

    Attributes:
        names: Names of the arguments, in order.
        arguments: Structures of the arguments.
        inputs: Tensors of the arguments.
        result: Structure of the result.
        outputs: Tensors of the result.
    """

    names: tuple[str, ...]
    arguments: tuple[Structure, ...]
    inputs: tuple[Slot, ...]
    result: Structure
    outputs: tuple[Slot, ...]

    def leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Find the tensors among the arguments of a call.

        Raises:
            TypeError: If arguments are missing or unknown, or have another structure.
        """
        given = dict(zip(self.names, args))
        if len(args) > len(self.names) or set(kwargs) & set(given):
            raise TypeError(f"this network takes {', '.join(self.names)}, got {len(args)} more")
        given |= kwargs
        if unknown := set(given) - set(self.names):
            raise TypeError(f"this network takes {', '.join(self.names)}, not {min(unknown)}")
        found: list[Any] = [None] * len(self.inputs)
        for name, structure in zip(self.names, self.arguments):
            if name in given:
                _match(structure, given[name], found, name)
            elif not _is_fixed(structure):
                raise TypeError(f"this network needs {name}: it takes {', '.join(self.names)}")
        return found

    def to_json(self) -> str:
        """Write it for a file."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @property
    def input_shape(self) -> Shape:
        """Of the graph's input."""
        return _joined(self.inputs)

    @property
    def output_shape(self) -> Shape:
        """Of the graph's output."""
        return _joined(self.outputs)

    @staticmethod
    def from_json(text: str) -> "Signature":
        """Read an untrusted signature.

        Raises:
            ValueError: If it is not valid.
        """
        try:
            data = json.loads(text)
            slots = [
                tuple(
                    Slot(_shape(s["shape"]), s["kind"], _sizes(s["sizes"], key), int(s["place"]))
                    for s in data[key]
                )
                for key in ("inputs", "outputs")
            ]
            names = tuple(str(name) for name in data["names"])
            arguments, result = tuple(data["arguments"]), data["result"]
            for structure in arguments:
                _check(structure, len(slots[0]))
            _check(result, len(slots[1]))
        except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
            raise ValueError(f"the signature of the network is not valid: {error}") from None
        if any(slot.kind not in ("float", "int", "bool") for part in slots for slot in part):
            raise ValueError("the signature of the network has elements of an unknown kind")
        if len(names) != len(arguments):
            raise ValueError("the signature of the network has more names than arguments")
        return Signature(names, arguments, slots[0], result, slots[1])


def flatten(
    value: Any, is_leaf: Callable[[Any], bool], leaves: list[Any], others: Callable[[Any], Any]
) -> Structure:
    """Collect the tensors of nested tuples, lists, dictionaries and dataclasses.

    Args:
        value: What is taken apart.
        is_leaf: Whether something is a tensor.
        leaves: They are appended to these.
        others: Makes a tuple, list or dictionary of anything else.

    Returns:
        The structure.

    Raises:
        ValueError: If there is something else in it.
    """
    if is_leaf(value):
        leaves.append(value)
        return {"leaf": len(leaves) - 1}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("the keys of a dictionary must be strings")
        return {"dict": {k: flatten(v, is_leaf, leaves, others) for k, v in value.items()}}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [flatten(v, is_leaf, leaves, others) for v in value]}
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return flatten(fields, is_leaf, leaves, others)
    return flatten(others(value), is_leaf, leaves, others)


def leaf_names(names: Sequence[str], arguments: Sequence[Structure]) -> list[str]:
    """Names of the tensors among the arguments, such as ``x`` or ``features[0]``."""
    found: dict[int, str] = {}

    def visit(structure: Structure, name: str) -> None:
        ((kind, content),) = structure.items()
        if kind == "leaf":
            found.setdefault(content, name)
        elif kind == "dict":
            for key, part in content.items():
                visit(part, f"{name}[{key!r}]")
        elif kind in ("tuple", "list"):
            for i, part in enumerate(content):
                visit(part, f"{name}[{i}]")

    for name, structure in zip(names, arguments):
        visit(structure, name)
    return [found[number] for number in sorted(found)]


def rebuild(structure: Structure, leaves: Sequence[Any]) -> Any:
    """Put tensors back into their structure."""
    ((kind, content),) = structure.items()
    if kind == "leaf":
        return leaves[content]
    if kind == "dict":
        return {key: rebuild(part, leaves) for key, part in content.items()}
    if kind == "tuple":
        return tuple(rebuild(part, leaves) for part in content)
    return [rebuild(part, leaves) for part in content] if kind == "list" else content


def pack(signature: Signature, leaves: Sequence[Any], join: Callable[..., Any]) -> Any:
    """Lay the tensors of a call side by side; a single one stays as it is.

    Args:
        signature: Of the network.
        leaves: Arrays of numpy or torch, of float32 already.
        join: ``numpy.concatenate`` or ``torch.cat``.

    Returns:
        The input of the graph.

    Raises:
        ValueError: If a shape does not fit, or the batches differ.
    """
    for i, (slot, leaf) in enumerate(zip(signature.inputs, leaves, strict=True)):
        if leaf.ndim != len(slot.shape) or tuple(leaf.shape[1:]) != slot.shape[1:]:
            needed = ", ".join(["batch", *map(str, slot.shape[1:])])
            raise ValueError(f"tensor {i} must have shape ({needed}), got {tuple(leaf.shape)}")
    batches = {leaf.shape[0] for leaf in leaves}
    if len(batches) != 1:
        raise ValueError(f"all tensors need the same batch size, got {sorted(batches)}")
    if len(leaves) == 1:
        return leaves[0]
    batch = batches.pop()
    return join(
        [leaf.reshape(batch, slot.size) for slot, leaf in zip(signature.inputs, leaves)], 1
    )


def split(signature: Signature, y: Any) -> list[Any]:
    """Take the tensors out of the output of a graph.

    Args:
        signature: Of the network.
        y: An array of numpy or torch, the batch first.

    Returns:
        Each with the sizes that the network gives it.
    """
    leaves, at, batch = [], 0, y.shape[0]
    for slot in signature.outputs:
        part = y if len(signature.outputs) == 1 else y[:, at : at + slot.size]
        if not any(size < 0 for size in slot.sizes):
            if not batch:
                raise ValueError("an output that has no batch needs at least one sample")
            leaves.append(part[0].reshape(slot.sizes))
            at += slot.size
            continue
        part = part.reshape(batch, *slot.shape[1:])
        if slot.place:
            axes = [*range(1, slot.place + 1), 0, *range(slot.place + 1, len(slot.shape))]
            part = part.transpose(axes) if hasattr(part, "flags") else part.permute(axes)
        leaves.append(part.reshape([-size * batch if size < 0 else size for size in slot.sizes]))
        at += slot.size
    return leaves


def _joined(slots: Sequence[Slot]) -> Shape:
    return slots[0].shape if len(slots) == 1 else (-1, sum(slot.size for slot in slots))


def _match(structure: Structure, value: Any, found: list[Any], name: str) -> None:
    ((kind, content),) = structure.items()
    if kind == "leaf":
        found[content] = value
    elif kind == "dict" and isinstance(value, Mapping) and set(value) == set(content):
        for key, part in content.items():
            _match(part, value[key], found, f"{name}[{key!r}]")
    elif kind in ("tuple", "list") and isinstance(value, tuple | list):
        if len(value) != len(content):
            raise TypeError(f"{name} must have {len(content)} entries, got {len(value)}")
        for i, (part, own) in enumerate(zip(content, value)):
            _match(part, own, found, f"{name}[{i}]")
    elif kind != "value" or value != content:
        wanted = content if kind == "value" else f"a {kind}"
        raise TypeError(f"{name} was {wanted} when the network was captured, got {value!r:.80}")


def _is_fixed(structure: Structure) -> bool:
    ((kind, content),) = structure.items()
    parts = content.values() if kind == "dict" else content if kind in ("tuple", "list") else ()
    return kind != "leaf" and all(map(_is_fixed, parts))


def _check(structure: Any, count: int) -> None:
    ((kind, content),) = structure.items()
    if kind == "leaf":
        if type(content) is not int or not 0 <= content < count:
            raise ValueError(f"there is no tensor {content!r:.20}")
    elif kind in ("tuple", "list", "dict"):
        for part in content.values() if kind == "dict" else content:
            _check(part, count)
    elif kind != "value":
        raise ValueError(f"{kind!r:.20} is unknown")


def _sizes(sizes: Any, key: str) -> Shape:
    """Those that the network gives a tensor: an output may be a single number."""
    return () if key == "outputs" and sizes == [] else _shape(sizes)


def _shape(sizes: Any) -> Shape:
    shape = tuple(cast("list[int]", sizes))
    if not shape or any(type(size) is not int or size == 0 for size in shape):
        raise ValueError(f"{shape!r:.80} is not a shape")
    return shape
