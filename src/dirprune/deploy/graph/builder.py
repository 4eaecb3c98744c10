"""Builds a graph node by node, from tensors of torch.

In a graph the batch is the first dimension. In the captured network it may be anywhere: (tokens,
batch, features), or merged with another dimension as in (batch x windows, tokens, features). So a
:class:`Value` stores which dimensions of the graph make up each of its dimensions. The other
dimensions keep their order, so that moving the batch needs no node.

Sizes of tensors are tuples in which ``-c`` means c times the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import torch

from dirprune.deploy.graph.graph_writer import GraphWriter
from dirprune.deploy.graph.operators.record import Attribute, Shape
from dirprune.deploy.graph.traced_sizes import Size, is_number, real
from dirprune.deploy.graph.values import (
    Constant,
    Value,
    graph_dims,
    plain_dims,
    renumbered,
    reshaped,
)

Held = TypeVar("Held", Value, Constant)


class Builder(GraphWriter):
    """Writes what a captured network does with tensors whose batch may be anywhere."""

    # ---- moving dimensions

    def reshape(self, x: Held, sizes: Shape) -> Held:
        """Reshape a value or constant."""
        if isinstance(x, Constant):
            return self.derived(x, sizes)
        before = self.graph_shape(x)
        flat = [g for dims in x.dims for g in dims]
        if 0 not in flat:
            if prod(sizes) != prod(self.sizes(x)):
                raise ValueError(f"it mixes the batch with the rest: {self.sizes(x)} to {sizes}")
            return self._same_for_all(x, sizes)
        shape, dims = reshaped(before, x.dims, sizes)
        if shape == before:
            return Value(x.number, dims)
        y = self.add("reshape", [x], {"size": shape}, dims=dims)
        self._keep_indices(x, y, lambda place: self.reshape(place, sizes))
        return y

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        """Permute the dimensions."""
        dims = tuple(x.dims[dim] for dim in order)
        moved = (0, *(g for group in dims for g in group if g != 0))
        new = renumbered(dims)
        if moved == tuple(range(len(moved))):
            return Value(x.number, new)
        return self.add("permute", [x], {"dims": moved}, dims=new)

    def take(self, x: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
        """Take a slice of a dimension; a full slice needs no node."""
        axis = self.axis(x, dim)
        if (start, end, step) == (0, self.graph_shape(x)[axis], 1):
            return x
        if x in self.parts and dim % len(x.dims) == len(x.dims) - 1 and end - start == 1:
            return self.reshape(self.parts[x][start], (*self.sizes(x)[:-1], 1))
        return self.add("slice", [x], {"dim": axis, "start": start, "end": end, "step": step})

    def take_batches(self, x: Value, dim: int, start: int, end: int) -> Value:
        """Take some of several batches that follow each other."""
        group = x.dims[dim]
        if len(group) != 2 or group[1] != 0:
            raise ValueError("it works along the batch")
        attrs = {"dim": group[0], "start": start, "end": end, "step": 1}
        y = self.add("slice", [x], attrs)
        return self.reshape(y, self.sizes(y)) if end - start == 1 else y

    def join(self, parts: Sequence[Value], dim: int, sizes: Shape) -> Value:
        """Join values along a dimension."""
        parts = [x for x in parts if not (isinstance(x, Constant) and not x.tensor.numel())]
        if sizes[dim] < 0 and all(isinstance(x, Value) for x in parts):
            batches = [self._counted(x, dim) for x in parts]
            return self.add("cat", batches, {"dim": batches[0].dims[dim][0]})
        parts = self._spread(parts, dim, sizes)
        if not all(isinstance(x, Value) and x.dims == parts[0].dims for x in parts):
            raise ValueError("it joins values whose batch is in different places")
        if len(parts) == 1:
            return parts[0]
        return self.add("cat", parts, {"dim": self.axis(parts[0], dim)})

    def reduce(self, op: str, x: Value, dims: Any, keepdim: bool, **attrs: Attribute) -> Value:
        """Write a reduction over dimensions without the batch."""
        if dims is None or dims == []:
            if x.holds_batch:
                raise ValueError("it reduces over the batch")
            dims = list(range(len(x.dims)))
        over = [dim % len(x.dims) for dim in ([dims] if isinstance(dims, int) else dims)]
        axes = tuple(self.axis(x, dim) for dim in over)
        left = [group for dim, group in enumerate(x.dims) if keepdim or dim not in over]
        every: dict[str, Attribute] = {"dims": axes, "keepdim": int(keepdim), **attrs}
        return self.add(op, [x], every, dims=renumbered(left))

    def reduce_one(self, op: str, x: Value, dim: int | None, keepdim: bool) -> Value:
        """Write a reduction over one dimension."""
        if dim is None:
            raise ValueError("it reduces over the batch")
        over = dim % len(x.dims)
        left = [group for i, group in enumerate(x.dims) if keepdim or i != over]
        attrs = {"dim": self.axis(x, over), "keepdim": int(keepdim)}
        return self.add(op, [x], attrs, dims=renumbered(left))

    def map(self, x: Value, each: Callable[[Value], Value]) -> Value:
        """Apply a function of (batch, channels, height, width) over the last two dimensions."""
        self.axis(x, -1), self.axis(x, -2)
        _, *ahead, height, width = self.graph_shape(x)
        if len(ahead) == 1:
            y = each(Value(x.number, plain_dims(4)))
            return Value(y.number, x.dims)
        sizes = (-1, prod(ahead), height, width)
        flat = self.add("reshape", [x], {"size": sizes}, dims=plain_dims(4))
        y = each(flat)
        after = (-1, *ahead, *self.graph_shape(y)[2:])
        return self.add("reshape", [y], {"size": after}, dims=x.dims)

    def each_map(self, x: Value, each: Callable[[Value], Value]) -> Value:
        """Apply a function of (batch, channels, maps, ...) to several maps of each sample.

        These are merged with the batch, such as windows, or batches that follow each other.
        """
        shape, ahead = self.graph_shape(x), len(x.dims[0])
        plain = plain_dims(len(shape))
        maps = (-1, self.maps_of_each_sample(x), *shape[ahead:])
        order = (0, 2, 1, *range(3, len(maps)))
        y = self.reshape(Value(x.number, plain), maps)
        y = self.permute(each(self.permute(y, order)), order)
        y = self.reshape(y, (*shape[:ahead], *self.sizes(y)[2:]))
        return Value(y.number, x.dims)

    def maps_of_each_sample(self, x: Value) -> int:
        """How many maps of a sample are merged with the batch, which must be first."""
        shape, ahead = self.graph_shape(x), len(x.dims[0])
        rest = plain_dims(len(shape))[ahead:]
        if sorted(x.dims[0]) != list(range(ahead)) or x.dims[1:] != rest:
            raise ValueError(f"its input {self.sizes(x)} does not have the batch first")
        return prod(shape[1:ahead])

    def channels_first(self, x: Value, each: Callable[[Value], Value]) -> Value:
        """Apply a function of (batch, channels, ...), the batch merged with others or alone."""
        ahead = len(x.dims[0])
        if ahead == 1 or sorted(x.dims[0]) != list(range(ahead)) or x.dims[1:2] != ((ahead,),):
            return each(self.plain(x))
        rank = len(self.graph_shape(x))
        order = (0, ahead, *range(1, ahead), *range(ahead + 1, rank))
        y = each(self.add("permute", [x], {"dims": order}, dims=plain_dims(rank)))
        back = tuple(order.index(dim) for dim in range(rank))
        return self.add("permute", [y], {"dims": back}, dims=x.dims)

    # ---- several values and constants

    def operand(self, x: Any) -> Any:
        """Convert a number to a constant; return other arguments unchanged."""
        if isinstance(x, Size):
            return self.multiplied(self.constant_value(Constant(torch.tensor(1.0))), x)
        return Constant(torch.tensor(float(x))) if is_number(x) else x

    def constant_value(self, x: Constant) -> Value:
        """A constant as a value that is the same for every sample."""
        sizes = tuple(x.tensor.shape)
        dims = plain_dims(len(sizes) + 1)[1:]
        return self.add("expand", [self.constant(x, sizes)], {"size": (-1, *sizes)}, dims=dims)

    def constant_of(self, tensor: torch.Tensor) -> Constant:
        """A new constant."""
        return Constant(tensor)

    def as_value(self, x: Value | Constant) -> Value:
        """A value; a constant becomes one that is the same for every sample."""
        return self.constant_value(x) if isinstance(x, Constant) else x

    def batch_size(self) -> Value:
        """The size of the batch as a number."""
        return self.add("batch_size", [Value(0, ())])

    def batch_index(self) -> Value:
        """The index of every sample in the batch."""
        index = self.add("batch_index", [Value(0, ())], dims=((0,),))
        self.batch_multiples[index.number] = 1
        return index

    def is_batch_index(self, x: Any) -> bool:
        """Whether a value is the index of every sample, or of every row of the samples."""
        return isinstance(x, Value) and x.number in self.batch_ranges

    def note_flat_place(self, x: Value, place: Any, multiple: Any) -> None:
        """Remember that a value is the sum of a place and of a multiple of the batch's index."""
        number = self.batch_multiples.get(getattr(multiple, "number", -1))
        if number is not None:
            place = self.expand(place, self.sizes(x))
            if place.dims == x.dims:
                self.flat_places[x.number] = place, number

    def derived(self, constant: Constant, shape: Shape) -> Constant:
        """A constant with another shape, as a new tensor."""
        return Constant(constant.tensor.reshape(shape))

    def expand(self, x: Any, sizes: Shape) -> Any:
        """Repeat a value or constant along dimensions of size 1, and along the batch."""
        if any(isinstance(size, int) and size == 0 for size in sizes):
            return Constant(torch.zeros([abs(size) for size in sizes]))
        own = (1,) * (len(sizes) - len(self.sizes(x))) + self.sizes(x)
        held = next((i for i, size in enumerate(sizes) if size < 0), None)
        if isinstance(x, Constant) and held is None:
            if not any(isinstance(size, Size) for size in sizes):
                return Constant(x.tensor.expand(sizes))
            x = self.constant_value(x)
        if held is None or (isinstance(x, Value) and x.holds_batch):
            x = self.reshape(x, own)
            shape = self.graph_shape(x)
            new = list(shape)
            for group, size in zip(x.dims, sizes):
                if len(group) == 1 and group[0]:
                    new[group[0]] = size
            if tuple(new) == shape:
                return x
            y = self.add("expand", [x], {"size": tuple(new)})
            self._keep_indices(x, y, lambda place: self.expand(place, sizes))
            return y
        dims = renumbered([(0,) * (i == held) + (1,) * (i != held or size < -1)
                           for i, size in enumerate(sizes)])  # fmt: skip
        parts = graph_dims(own, dims)
        whole = (-1, *(abs(s) for i, s in enumerate(sizes) if i != held or s < -1))
        read = (
            self.constant(x, parts)
            if isinstance(x, Constant)
            else self.add("reshape", [x], {"size": (-1, *parts)}, dims=dims)
        )
        return self.add("expand", [read], {"size": whole}, dims=dims)

    def filled(self, number: Any, sizes: Shape) -> Any:
        """A value or constant that is filled with one number."""
        return self.expand(self.operand(number), sizes)

    def multiplied(self, x: Any, factor: Any) -> Any:
        """Multiply a value or constant by a number."""
        if isinstance(factor, Value):
            return self.combine("mul", [x, factor])
        if factor == 1:
            return x
        if isinstance(x, Constant):
            return Constant(x.tensor * factor)
        self.sizes(x)
        y = self.add("mul", [x], {"scalar": real(factor)})
        if x.number in self.batch_multiples:
            self.batch_multiples[y.number] = self.batch_multiples[x.number] * factor
        return y

    def combine(
        self, op: str, operands: Sequence[Any], attrs: Mapping[str, Attribute] | None = None
    ) -> Value:
        """Write a node whose operands, values and constants, are broadcast."""
        for x in operands:
            self.sizes(x)  # refuses what is neither a value nor a constant
        rank = max(len(self.sizes(x)) for x in operands)
        values = [
            self.reshape(x, (1,) * (rank - len(x.dims)) + self.sizes(x))
            if isinstance(x, Value)
            else x
            for x in operands
        ]
        every = [x for x in values if isinstance(x, Value)]
        dims = next((x.dims for x in every if x.holds_batch), every[0].dims)
        if any(x.holds_batch and x.dims != dims for x in every):
            raise ValueError("it combines values whose batch is in different places")
        read = [self._aligned(x, dims) for x in values]
        return self.add(op, read, attrs, dims=dims)

    def cumulative_count(self, running_mean: Constant) -> dict[str, Constant]:
        """The batch counter of a BatchNorm with a cumulative mean."""
        count = self.batch_counts.get(running_mean.name or "")
        return {} if count is None else {"num_batches_tracked": count}

    def _keep_indices(self, x: Value, y: Value, move: Callable[[Value], Value]) -> None:
        """Note that the elements of a value are those of another one, moved."""
        if x.number in self.batch_multiples:
            self.batch_multiples[y.number] = self.batch_multiples[x.number]
        if x.number in self.batch_ranges:
            self.batch_ranges.add(y.number)
        if x.number in self.flat_places:
            place, number = self.flat_places[x.number]
            moved = move(Value(place.number, x.dims))
            self.flat_places[y.number] = moved, number

    def _aligned(self, x: Any, dims: Sequence[tuple[int, ...]]) -> Value | int:
        """A value or the number of a constant that broadcasts against values with such dims."""
        if isinstance(x, Value):
            if x.dims == dims:
                return x
            size = (-1, *graph_dims(self.sizes(x), dims))
            return (
                Value(x.number, tuple(dims))
                if size == self.graph_shape(x)
                else self.add("reshape", [x], {"size": size}, dims=tuple(dims))
            )
        shape = tuple(x.tensor.shape)
        own = graph_dims((1,) * (len(dims) - len(shape)) + shape, dims)
        return self.constant(x, shape if dims and dims[0] == (0,) else own)

    def _same_for_all(self, x: Value, sizes: Shape) -> Value:
        """Another shape of a value that is the same for every sample."""
        dims = plain_dims(len(sizes) + 1)[1:]
        if (-1, *sizes) == self.graph_shape(x):
            return Value(x.number, dims)
        y = self.add("reshape", [x], {"size": (-1, *sizes)}, dims=dims)
        if x.number in self.ranges:
            self.ranges.add(y.number)
        return y

    def _counted(self, x: Value, dim: int) -> Value:
        """A batch with a dimension ahead that counts batches; several batches have it already."""
        group = x.dims[dim]
        if len(group) == 2 and group[1] == 0:
            return x
        if group != (0,):
            raise ValueError("it joins values whose batch is in different places")
        dims = renumbered([*x.dims[:dim], (1, 0), *x.dims[dim + 1 :]])
        shape, axis = self.graph_shape(x), dims[dim][0]
        return self.add("reshape", [x], {"size": (*shape[:axis], 1, *shape[axis:])}, dims=dims)

    def _spread(self, parts: Sequence[Any], dim: int, sizes: Shape) -> list[Value]:
        """Repeat constants, and what is the same for every sample, along the batch."""
        if all(isinstance(x, Value) and x.holds_batch for x in parts):
            return list(parts)
        spread = []
        for x in parts:
            own = list(sizes)
            own[dim] = self.sizes(x)[dim]
            whole = isinstance(x, Value) and x.holds_batch
            spread.append(x if whole else self.as_value(self.expand(x, tuple(own))))
        return spread
