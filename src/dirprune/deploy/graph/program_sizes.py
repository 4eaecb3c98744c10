"""The sizes in an exported program: fixed, multiples of the batch, or within bounds."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.example import Example
from dirprune.deploy.graph.operators.record import Shape
from dirprune.deploy.graph.signature import Slot, leaf_names
from dirprune.deploy.graph.size_requests import Place, joint_range, narrowed
from dirprune.deploy.graph.sizes import SizeRange
from dirprune.deploy.graph.symbols import size_of
from dirprune.deploy.graph.traced_sizes import SizeSpace, expression_of
from dirprune.deploy.graph.values import BatchSize

SELECTION = "its size depends on values of the input: select with torch.where"


class ProgramSizes:
    """Reads the symbolic sizes of a program.

    Args:
        program: What was exported.
        example: Its inputs.
        ranges: The sizes that vary, by input and dimension.

    Attributes:
        batch: Symbols for the size of the batch.
        inputs: The shape of each input tensor, -1 first.
        space: The sizes that vary; None if only the batch does.

    Raises:
        ValueError: If the exporter found that a size has other bounds.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        example: Example,
        ranges: Mapping[Place, SizeRange],
    ) -> None:
        specs = {s.arg.name: s for s in program.graph_signature.input_specs}
        placeholders = [
            node
            for node in program.graph.nodes
            if node.op == "placeholder" and specs[node.name].target is None
        ]
        self._names = leaf_names(example.names, example.arguments)
        shapes = [node.meta["val"].shape for node in placeholders]
        if any(isinstance(shape[0], int) for shape in shapes):
            raise ValueError(
                f"{type(example.model).__name__} works for one batch size only, which an operator "
                "such as torch.linalg.inv fixes: save it without example_inputs to store its "
                "weights only"
            )
        self.batch = {shape[0].node.expr for shape in shapes}
        places: dict[Any, list[SizeRange]] = {}
        sizes: dict[Any, int] = {}
        for (number, dim), own in ranges.items():
            symbol = shapes[number][dim].node.expr
            places.setdefault(symbol, []).append(own)
            sizes[symbol] = example.leaves[number].shape[dim]
        joint = [joint_range(own, " and ".join(r.name for r in own)) for own in places.values()]
        for symbol, own in zip(places, joint):
            found = program.range_constraints.get(symbol)
            if found is not None and (error := narrowed(own, found.upper)):
                raise ValueError(error)
        self.space = SizeSpace(joint, list(sizes.values())) if joint else None
        self._symbols = {} if self.space is None else dict(zip(places, self.space.symbols))
        self._counts: dict[Any, int] = {}
        self.inputs = [(-1, *map(self.size, shape[1:])) for shape in shapes]

    def size(self, size: Any, batch: int = 1) -> Any:
        """A size as a number, or as one that follows from sizes; the batch has the given size."""
        if isinstance(size, int):
            return size
        known = {**self._symbols, **self._counts, **dict.fromkeys(self.batch, batch)}
        return size_of(size.node.expr, known)

    def sizes(self, tensor: Tensor) -> Shape:
        """Sizes of a tensor with ``-c`` for c times the batch."""
        return tuple(self._size(size) for size in tensor.shape)

    def _size(self, size: Any) -> Any:
        if isinstance(size, int):
            return size
        if not self._is_known(size.node.expr):
            raise ValueError(SELECTION)
        if not size.node.expr.free_symbols & self.batch:
            return self.size(size)
        one, two, three = (self.size(size, batch) for batch in (1, 2, 3))
        if one == two == three:  # a ratio of the batches of two inputs
            return one
        if two != 2 * one or not one >= 1:
            raise ValueError(f"its size {size} is no multiple of the batch")
        return -one

    def size_if_known(self, size: Any) -> Any:
        """A size as :meth:`sizes` has it; None if it depends on values of the input."""
        if isinstance(size, int) or self._is_known(size.node.expr):
            return self._size(size)
        return None

    def bind(self, sizes: Sequence[Any], values: Sequence[Any]) -> None:
        """Store numbers that follow from values of constants, such as how many are true."""
        for size, known in zip(sizes, values):
            symbolic = isinstance(size, torch.SymInt | torch.SymFloat)
            expression = size.node.expr if symbolic else None
            if expression is not None and expression.is_Symbol and not self._is_known(expression):
                self._counts[expression] = known

    def _is_known(self, expression: Any) -> bool:
        known = {*self.batch, *self._symbols, *self._counts}
        return bool(expression.free_symbols <= known)

    def number(self, held: Any) -> Any:
        """The representation of a number of the program."""
        if not isinstance(held, torch.SymInt | torch.SymFloat):
            return held
        expression = held.node.expr
        if expression.free_symbols and expression.free_symbols <= set(self._counts):
            return size_of(expression, self._counts)
        if expression.free_symbols & self.batch or not self._symbols:
            return BatchSize(expression)
        return size_of(expression, self._symbols)

    def dynamic(self, outputs: Sequence[Slot]) -> Dynamic | None:
        """What a file says of the sizes, except for the attributes of nodes."""
        if self.space is None:
            return None
        return Dynamic(
            tuple(self.space.ranges),
            tuple(self._names),
            tuple(tuple(map(expression_of, shape[1:])) for shape in self.inputs),
            tuple(
                (tuple(expression_of(slot.shape)), tuple(expression_of(slot.sizes)))
                for slot in outputs
            ),
            {},
        )
