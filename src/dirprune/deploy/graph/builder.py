"""Writes a graph down node by node, from tensors of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import Attribute, Shape
from dirprune.deploy.graph.shapes import infer_shape


class Value(NamedTuple):
    """What depends on the input, by its number in the graph."""

    number: int


@dataclass(eq=False)
class Constant:
    """What does not: a parameter, a buffer, or what follows from these."""

    tensor: Tensor
    name: str | None = None
    trained: bool = False


@dataclass
class Builder:
    """Numbers values and names tensors.

    Args:
        shape: Of the input, -1 first.

    Attributes:
        path: Of the module that the next nodes come from.
    """

    shape: Shape
    path: str = ""
    _nodes: list[Node] = field(default_factory=list)
    _tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _constants: dict[int, Value] = field(default_factory=dict)
    _keep: list[Constant] = field(default_factory=list)

    def shape_of(self, x: Value | Constant) -> Shape:
        """The shape of a value (-1 first) or of a constant."""
        if isinstance(x, Constant):
            return tuple(x.tensor.shape)
        return self._nodes[x.number - 1].shape if x.number else self.shape

    def add(
        self,
        op: str,
        inputs: Sequence[Value | Constant],
        attrs: Mapping[str, Attribute] | None = None,
        tensors: Mapping[str, Constant | None] | None = None,
    ) -> Value:
        """Write a node; its shape follows.

        Args:
            op: A key of the table of operators.
            inputs: What it reads; constants become nodes of their own.
            attrs: Its attributes.
            tensors: Its tensors by role; None for those that it does not have.

        Returns:
            Its value.

        Raises:
            ValueError: If they do not fit.
        """
        read = [self._constant(x) if isinstance(x, Constant) else x for x in inputs]
        named = {role: self._name(c) for role, c in (tensors or {}).items() if c is not None}
        for role, constant in (tensors or {}).items():
            if not isinstance(constant, Constant | None):
                raise ValueError(f"its {role} depends on the input")
        sizes = {role: self._tensors[name].shape for role, name in named.items()}
        shape = infer_shape(op, [self.shape_of(x) for x in read], sizes, attrs or {})
        numbers = tuple(x.number for x in read)
        self._nodes.append(Node(op, numbers, shape, attrs or {}, named, self.path))
        return Value(len(self._nodes))

    def finish(self, output: Value) -> Graph:
        """Check everything and return the graph."""
        return Graph(self.shape, tuple(self._nodes), output.number, self._tensors)

    def _constant(self, constant: Constant) -> Value:
        if id(constant) not in self._constants:
            attrs = {"trained": 1} if constant.trained else {}
            self._constants[id(constant)] = self.add("constant", (), attrs, {"value": constant})
        return self._constants[id(constant)]

    def _name(self, constant: Constant) -> str:
        if constant.tensor.dtype != torch.float32:
            raise ValueError(
                f"reads {constant.name or 'a constant'} of {constant.tensor.dtype}: call "
                "model.float() first"
            )
        if constant.name is None:
            taken = sum(name.startswith("constant.") for name in self._tensors)
            constant.name = f"constant.{taken}"
        if constant.name not in self._tensors:
            array: NDArray[np.float32] = constant.tensor.cpu().contiguous().numpy()
            self._tensors[constant.name] = array.copy()
            self._keep.append(constant)  # its id stays its own
        return constant.name
