"""Repeating, and reading by an index: constant places, embeddings, gathering."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.batch import count_up
from dirprune.deploy.graph.operators.lazy_torch import F, torch
from dirprune.deploy.graph.operators.record import (
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_dim,
    check_rank,
    check_size,
)
from dirprune.deploy.graph.operators.sample_rows import rows_of_all_samples, split_rows
from dirprune.deploy.graph.traced_sizes import slice_bounds, varies
from dirprune.deploy.graph.values import Constant, Value, plain_dims

if TYPE_CHECKING:
    from torch import Tensor

    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


# ---- repeating


def _expand_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    size: Shape = attrs["size"]
    check_size(size[1:])
    own = x[0][1:] if x[0][:1] == (-1,) else x[0]
    if x[0][:1] == (-1,) and len(own) != len(size) - 1:
        raise ValueError(f"cannot expand {x[0]} to {size}")
    fits = len(own) <= len(size) - 1
    pairs = zip(own[::-1], size[:0:-1])
    if size[0] != -1 or not fits or any(mine not in (1, new) for mine, new in pairs):
        raise ValueError(f"cannot expand {x[0]} to {size}")
    return size


def _run_expand(x: "list[Tensor]", t: Any, a: Attributes, batch: int) -> "Tensor":
    return x[0].expand(batch, *a["size"][1:])


def _capture_expand(b: "Builder", a: "Arguments", results: Any) -> "Value":
    expanded: Value = b.expand(a.self, results[0])
    return expanded


def _capture_repeat(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Repeat whole dimensions: insert one before each, expand it, merge the two."""
    sizes = b.sizes(a.self)
    own = (1,) * (len(a.repeats) - len(sizes)) + sizes
    counts = [count if isinstance(count, int) else size // mine
              for count, size, mine in zip(a.repeats, results[0], own)]  # fmt: skip
    split = tuple(n for size in own for n in (1, size))
    wide = tuple(n for count, size in zip(counts, own) for n in (count, size))
    x = a.self if counts == [1] * len(counts) else b.expand(b.reshape(a.self, split), wide)
    return b.reshape(x, results[0])  # type: ignore[no-any-return]


def _write_expand(w: "Writer", n: "OnnxNode") -> None:
    if n.shape[:1] == (-1,):
        w.add("Expand", [n.inputs[0], w.integers((1, *n.attrs["size"][1:]))], n.name)
        return
    size = w.add("Concat", [w.batch_size(), w.integers(n.attrs["size"][1:])], axis=0)
    w.add("Expand", [n.inputs[0], size], n.name)


# ---- constant places


def _take_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dim = check_dim(x[0], attrs["dim"])
    check_rank(tensors["index"], 1)
    return (*x[0][:dim], tensors["index"][0], *x[0][dim + 1 :])


def take_same_places(b: "Builder", x: "Value", dim: int, index: "Value") -> "Value":
    """Take places along a dimension that follow from sizes, the same for every sample."""
    axis, shape, count = b.axis(x, dim), b.graph_shape(x), b.graph_shape(index)[1]
    alone = (-1, *(count if i == axis else 1 for i in range(1, len(shape))))
    places = b.reshape(Value(index.number, plain_dims(2)), alone)
    places = b.expand(places, (*shape[:axis], count, *shape[axis + 1 :]))
    return b.add("gather", [x, places], {"dim": axis})


def take_places(b: "Builder", x: "Value", dim: int, index: "Tensor") -> "Value":
    """Take places along a dimension; slices where they are a run."""
    size = b.sizes(x)[dim]
    if varies(size):
        parts = [b.take(x, dim, p, p + 1) for p in
                 (size + p if p < 0 else p for p in index.reshape(-1).tolist())]  # fmt: skip
        return b.join(parts, dim, b.sizes(x))
    places = (index.reshape(-1).long() % size).tolist()
    if places == list(range(places[0], places[0] + len(places))):
        return b.take(x, dim, places[0], places[0] + len(places))
    tensor = torch.tensor(places, dtype=torch.float32)
    return b.add("take", [x], {"dim": b.axis(x, dim)}, {"index": Constant(tensor)})


def _capture_flip(b: "Builder", a: "Arguments", results: Any) -> "Value":
    x: Value = a.self
    for dim in a.dims:
        size = b.sizes(x)[dim]
        if varies(size):
            place = b.combine("sub", [b.operand(size - 1), count_up(b, size)])
            x = take_same_places(b, x, dim, place)
        else:
            x = take_places(b, x, dim, torch.arange(size - 1, -1, -1))
    return x


def _capture_roll(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if not a.dims:
        raise ValueError("it rolls the batch")
    x: Value = a.self
    sizes = b.sizes(x)
    for shift, dim in zip(a.shifts, a.dims):
        b.axis(x, dim)
        cut = -shift % sizes[dim]
        if cut:
            parts = [b.take(x, dim, cut, sizes[dim]), b.take(x, dim, 0, cut)]
            x = b.join(parts, dim, results[0])
    return x


def _scattered(b: "Builder", a: "Arguments", part: Any, start: int, end: int) -> "Value":
    """The value with a run of places along a dimension replaced."""
    x, sizes = a.self, b.sizes(a.self)
    size = sizes[a.dim]
    if not hasattr(x, "dims"):
        x = b.expand(x, b.sizes(part)[: len(sizes)])
    dim = a.dim % len(sizes)
    run = (*sizes[:dim], end - start, *sizes[dim + 1 :])
    if not hasattr(part, "dims"):
        part = b.expand(part, run)
    parts = [b.take(x, dim, 0, start)] if start else []
    parts += [part] + ([b.take(x, dim, end, size)] if end < size else [])
    return b.join(parts, dim, sizes)


def _capture_slice_scatter(b: "Builder", a: "Arguments", results: Any) -> "Value":
    size = b.sizes(a.self)[a.dim]
    if size < 0 and b.sizes(a.src) == results[0]:
        return a.src  # type: ignore[no-any-return]
    start, end, step = slice_bounds(a.start, a.end, a.step, size)
    if step != 1:
        from dirprune.deploy.graph.operators.places import put

        return put(b, a.self, [(a.dim, torch.arange(start, end, step))], a.src, False)
    return _scattered(b, a, a.src, start, end)


def _capture_select_scatter(b: "Builder", a: "Arguments", results: Any) -> "Value":
    sizes = b.sizes(a.self)
    dim = a.dim % len(sizes)
    index = a.index % sizes[dim]
    part = (
        b.reshape(a.src, (*sizes[:dim], 1, *sizes[dim + 1 :]))
        if hasattr(a.src, "dims")
        else (b.derived(a.src, (*a.src.tensor.shape[:dim], 1, *a.src.tensor.shape[dim:])))
    )
    return _scattered(b, a, part, index, index + 1)


def _write_take(w: "Writer", n: "OnnxNode") -> None:
    index = w.add("Cast", [n.tensors["index"]], to=7)
    w.add("Gather", [n.inputs[0], index], n.name, axis=n.attrs["dim"])


# ---- places that depend on the input


def _embedding_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    check_rank(tensors["weight"], 2)
    return (*x[0], tensors["weight"][1])


def _capture_embedding(b: "Builder", a: "Arguments", results: Any) -> "Value":
    if hasattr(a.weight, "dims"):
        return rows_of_all_samples(b, a.weight, 0, a.indices, results[0])
    index = b.operand(a.indices)  # a size may be an index too
    dims = (*index.dims, (len(b.graph_shape(index)),))
    return b.add("embedding", [index], {}, {"weight": a.weight}, dims=dims)


def _write_embedding(w: "Writer", n: "OnnxNode") -> None:
    w.add("Gather", [n.tensors["weight"], w.add("Cast", n.inputs, to=7)], n.name, axis=0)


def _gather_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    dim = check_dim(x[0], attrs["dim"])
    if len(x[0]) != len(x[1]) or any(
        own < new for i, (own, new) in enumerate(zip(x[0], x[1])) if i != dim
    ):
        raise ValueError(f"an index {x[1]} does not fit {x[0]}")
    return x[1]


def _capture_gather(b: "Builder", a: "Arguments", results: Any) -> "Value":
    x, index = a.self, a.index
    if hasattr(x, "tensor") and x.tensor.dim() == 1:  # a row of a table for each sample
        return rows_of_all_samples(b, x, 0, index, results[0])
    dim = a.dim % len(results[0])
    if (found := split_rows(b, x, dim, index)) is not None:
        rows, places = found
        index = b.reshape(places, (-1, -results[0][0], *results[0][1:]))
        return b.reshape(b.add("gather", [rows, index], {"dim": 1}), results[0])
    if not hasattr(x, "dims"):
        own = b.sizes(x)[dim]
        x = b.as_value(b.expand(x, (*results[0][:dim], own, *results[0][dim + 1 :])))
    index = b.as_value(index if hasattr(index, "dims") else b.expand(index, results[0]))
    if x.dims != index.dims:
        raise ValueError("it gathers values whose batch is in different places")
    return b.add("gather", [x, index], {"dim": b.axis(x, dim)})


def _write_gather(w: "Writer", n: "OnnxNode") -> None:
    index = w.add("Cast", [n.inputs[1]], to=7)
    w.add("GatherElements", [n.inputs[0], index], n.name, axis=n.attrs["dim"])


_FILLED = {
    "empty": lambda b, a, results: b.filled(0.0, results[0]),  # its elements are not defined
    "zeros": lambda b, a, results: b.filled(0.0, results[0]),
    "ones": lambda b, a, results: b.filled(1.0, results[0]),
    "full": lambda b, a, results: b.filled(a.fill_value, results[0]),
}

INDEXING = {
    "expand": Operator(
        _expand_shape,
        _run_expand,
        attrs={"size": "ints"},
        captured={
            "expand": _capture_expand,
            "expand_as": _capture_expand,
            "repeat": _capture_repeat,
            **{
                f"{prefix}{name}{suffix}": capture
                for name, capture in _FILLED.items()
                for prefix, suffix in (("", ""), ("new_", ""), ("", "_like"))
            },
        },
        onnx=_write_expand,
        reads_constants=True,
        reads_batch=True,
    ),
    "take": Operator(
        _take_shape,
        lambda x, t, a: x[0].index_select(a["dim"], t["index"].long()),
        tensors=("index",),
        attrs={"dim": "int"},
        captured={
            "flip": _capture_flip,
            "roll": _capture_roll,
            "copy": lambda b, a, results: b.expand(a.src, results[0]),
            "fill": lambda b, a, results: b.expand(b.operand(a.value), results[0]),
            "slice_scatter": _capture_slice_scatter,
            "select_scatter": _capture_select_scatter,
        },
        onnx=_write_take,
    ),
    "embedding": Operator(
        _embedding_shape,
        lambda x, t, a: F.embedding(x[0].long(), t["weight"]),
        tensors=("weight",),
        captured={"embedding": _capture_embedding},
        onnx=_write_embedding,
    ),
    "gather": Operator(
        _gather_shape,
        lambda x, t, a: x[0].gather(a["dim"], x[1].long()),
        inputs=(2, 2),
        attrs={"dim": "int"},
        captured={"gather": _capture_gather},
        onnx=_write_gather,
    ),
}
