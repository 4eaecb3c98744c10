"""Every operator of the engine against torch in float64, on odd shapes."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirprune.deploy import GraphNet
from dirprune.deploy.file.encode import encode
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.shapes import infer_shape

_cpp = pytest.importorskip("dirprune._cpp", reason="dirprune was installed without its extension")

BATCHES = (0, 1, 3, 8, 9)
Tensors = dict[str, np.ndarray[Any, Any]]
generator = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray[Any, Any]:
    return generator.standard_normal(shape).astype(np.float32)


def graph_of(
    op: str,
    shape: tuple[int, ...],
    attrs: Mapping[str, Any],
    tensors: Tensors,
    inputs: tuple[int, ...] = (0,),
    constant: np.ndarray[Any, Any] | None = None,
) -> Graph:
    """One node; value 1 is a constant or the input through a sigmoid."""
    batched = (-1, *shape)
    if constant is None:
        first = Node("sigmoid", (0,), batched, path="before")
    else:
        first = Node("constant", (), constant.shape, tensors={"value": "constant.0"})
        tensors = {**tensors, "constant": constant}
    names = {role: f"layer.{role}" for role in tensors if role != "constant"}
    shapes = [(batched, first.shape)[value] for value in inputs]
    result = infer_shape(op, shapes, {r: tensors[r].shape for r in names}, attrs)
    node = Node(op, inputs, result, attrs, names, "layer")
    arrays = {name: tensors[role] for role, name in names.items()}
    if constant is not None:
        arrays["constant.0"] = constant
    return Graph(batched, (first, node), 2, arrays)


def program(graph: Graph) -> Any:
    return _cpp.Program(encode(graph), list(graph.tensors.values()))


def check(graph: Graph, batches: tuple[int, ...] = BATCHES, tolerance: float = 1e-5) -> None:
    net, engine = GraphNet(graph).double(), program(graph)
    for batch in batches:
        x = random(batch, *graph.shape[1:])
        with torch.no_grad():
            expected = net(torch.from_numpy(x).double()).numpy()
        for threads, tune in ((1, False), (2, False), (2, True)):
            result = engine.run(x, threads, tune)
            assert result.shape == expected.shape
            scale = np.abs(expected).max(initial=1e-3)
            assert np.abs(result - expected).max(initial=0.0) <= tolerance * scale


def conv2d(
    shape: tuple[int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    density: float,
    **attrs: Any,
) -> Graph:
    channels = shape[0] // attrs.get("groups", 1)
    weight = random(outputs, channels, *kernel)
    weight *= generator.random(weight.shape) < density
    full = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, **attrs}
    return graph_of("conv2d", shape, full, {"weight": weight, "bias": random(outputs)})


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "attrs"),
    [
        ((5, 7, 7), 6, (1, 1), {}),
        ((13, 1, 1), 29, (1, 1), {}),
        ((3, 9, 11), 7, (3, 3), {"padding": (1, 1, 1, 1)}),
        ((4, 14, 14), 12, (3, 3), {"padding": (1, 1, 1, 1), "stride": (2, 2)}),
        ((4, 9, 10), 5, (2, 2), {"stride": (3, 3)}),  # stride > kernel
        ((4, 12, 12), 5, (3, 2), {"dilation": (2, 3), "padding": (2, 0, 1, 3)}),
        ((12, 6, 6), 18, (3, 3), {"groups": 6, "padding": (1, 1, 1, 1)}),
        ((16, 8, 9), 16, (3, 3), {"groups": 16, "padding": (1, 1, 1, 1), "stride": (2, 1)}),
        ((6, 5, 4), 12, (5, 5), {"groups": 6, "padding": (2, 2, 2, 2)}),
        ((40, 4, 4), 33, (3, 3), {"padding": (1, 1, 1, 1)}),
        ((3, 35, 33), 8, (7, 7), {"padding": (3, 3, 3, 3), "stride": (2, 2)}),
        ((5, 1, 1), 4, (1, 1), {"padding": (1, 2, 1, 2), "stride": (4, 4)}),  # padding alone
    ],
)
def test_convolutions(
    shape: tuple[int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    attrs: dict[str, Any],
    density: float,
) -> None:
    check(conv2d(shape, outputs, kernel, density, **attrs))


small = st.integers(1, 3)


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)),
    kernel=st.tuples(small, small),
    stride=st.tuples(small, small),
    dilation=st.tuples(small, small),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    groups=small,
    density=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_drawn_convolutions(
    sizes: tuple[int, int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    groups: int,
    density: float,
) -> None:
    channels, height, width, outputs = sizes
    needed = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    height, width = max(height, needed[0]), max(width, needed[1])
    attrs = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    check(
        conv2d((channels * groups, height, width), outputs * groups, kernel, density, **attrs),
        batches=(1, 8),
    )


@pytest.mark.parametrize("activation", range(12))
def test_epilogues(activation: int) -> None:
    weight = random(9, 6, 3, 3) * (generator.random((9, 6, 3, 3)) < 0.3)
    attrs = {"activation": activation, "activation_parameter": 0.3}
    padded = {"padding": (1, 1, 1, 1), "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    square = random(6, 6, 3, 3) * (generator.random((6, 6, 3, 3)) < 0.3)
    check(graph_of("conv2d", (6, 5, 7), {**attrs, **padded}, {"weight": weight}))
    check(graph_of("conv2d", (6, 5, 7), {**attrs, **padded}, {"weight": square}, (0, 1)))
    for shape in ((10,), (3, 10), (2, 3, 10)):
        tensors = {"weight": random(10, 10), "bias": random(10)}
        check(graph_of("linear", shape, attrs, tensors, (0, 1)))
    channels = {"scale": random(6), "shift": random(6)}
    check(graph_of("affine", (6, 5, 7), attrs, channels, (0, 1)))


@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("shape", [(37,), (5, 37), (2, 3, 37)])
def test_linear_layers(shape: tuple[int, ...], density: float) -> None:
    weight = random(41, 37)
    weight *= generator.random(weight.shape) < density
    check(graph_of("linear", shape, {}, {"weight": weight, "bias": random(41)}))


POOL = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1), "ceil_mode": 0}
SOFTPLUS = {"beta": 2.0, "threshold": 3.0}
SINGLE: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    *[(op, (3, 5), {}) for op in ("relu", "relu6", "silu", "sigmoid", "tanh", "hardswish",
                                  "hardsigmoid")],
    ("leaky_relu", (7,), {"slope": 0.1}),
    ("elu", (7,), {"alpha": 0.7}),
    ("gelu", (19,), {"tanh": 0}),
    ("gelu", (19,), {"tanh": 1}),
    *[("softmax", (3, 5, 4), {"dim": dim}) for dim in (1, 2, 3)],
    ("add", (4, 3), {"scalar": 0.5}),
    ("sub", (4, 3), {"scalar": 0.5, "reversed": 1}),
    ("mul", (4, 3), {"scalar": -2.0}),
    ("div", (4, 3), {"scalar": 3.0}),
    ("slice", (5, 6), {"dim": 1, "start": 1, "end": 4, "step": 1}),
    ("slice", (5, 6), {"dim": 2, "start": 0, "end": 6, "step": 4}),
    *[("max_pool2d", (3, 7, 6), {**POOL, "ceil_mode": c, "dilation": (d, 1)})
      for c in (0, 1) for d in (1, 2)],
    *[("avg_pool2d", (3, 7, 6), {**POOL, "ceil_mode": c, "count_include_pad": i})
      for c in (0, 1) for i in (0, 1)],
    *[(f"adaptive_{kind}_pool2d", (3, 7, 5), {"output": output})
      for kind in ("avg", "max") for output in ((1, 1), (3, 2), (9, 5))],
    ("mean", (3, 4, 5), {"dims": (2, 3), "keepdim": 0}),
    ("mean", (3, 4, 5), {"dims": (1,), "keepdim": 1}),
    ("mean", (3, 4, 5), {"dims": (1, 3), "keepdim": 0}),
    ("reshape", (3, 4, 5), {"size": (-1, 12, 5)}),
    *[("permute", (3, 4, 5), {"dims": dims})
      for dims in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 2, 3))],
    ("pad", (2, 3, 4), {"padding": (1, 0, 2, 3), "value": 0.25}),
    ("upsample_nearest", (2, 3, 4), {"output": (7, 4)}),
    ("upsample_bilinear", (2, 3, 4), {"output": (7, 9), "align_corners": 0}),
    ("upsample_bilinear", (2, 3, 4), {"output": (6, 2), "align_corners": 1}),
    ("dropout", (5,), {"p": 0.5}),
    *[(op, (3, 5), {}) for op in ("exp", "abs", "sin", "cos", "erf", "floor", "ceil", "round",
                                  "sign", "trunc", "expm1", "mish", "selu", "logical_not")],
    ("softplus", (3, 5), SOFTPLUS),
    ("power", (3, 5), {"exponent": 3.0}),
    *[("clamp", (3, 5), limits) for limits in ({"low": -0.5}, {"high": 0.5},
                                               {"low": -0.5, "high": 0.5})],
    *[(op, (3, 4, 5), {"dims": dims, "keepdim": keep}) for op in ("sum", "amax", "amin", "prod")
      for dims, keep in (((2,), 0), ((1, 3), 1), ((3, 2), 0))],
    *[(op, (3, 4, 5), {"dim": 2, "keepdim": k}) for op in ("argmax", "argmin") for k in (0, 1)],
    ("cumsum", (3, 4, 5), {"dim": 2}),
    ("expand", (3, 1, 5), {"size": (-1, 3, 4, 5)}),
    ("dilate", (2, 3, 4), {"stride": (2, 3)}),
    ("group_norm", (6, 3, 4), {"groups": 2, "eps": 1e-5}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "shape", "attrs"), SINGLE)
def test_operators_of_one_value(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    check(graph_of(op, shape, attrs, {}))


@pytest.mark.parametrize("op", ["tanh", "elu", "selu", "expm1", "sin", "erf", "silu"])
def test_functions_keep_their_digits_near_zero(op: str) -> None:
    graph = graph_of(op, (64,), {"alpha": 1.0} if op == "elu" else {}, {})
    x = random(9, 64) * np.float32(10) ** generator.integers(-30, -1, (9, 64)).astype(np.float32)
    expected = GraphNet(graph).double()(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(program(graph).run(x, 1, False), expected, rtol=1e-6)


FAR = [30.0, 87.5, 88.5, 88.72, 89.0, 104.0, 1e4, 3e38, np.inf]


@pytest.mark.parametrize(
    ("op", "attrs"),
    [("exp", {}), ("expm1", {}), ("mish", {}), ("selu", {}), ("softplus", SOFTPLUS),
     ("softplus", {"beta": 1.0, "threshold": 20.0}), ("elu", {"alpha": 1.0}), ("silu", {}),
     ("power", {"exponent": 2.0}), ("power", {"exponent": 3.0})],
)  # fmt: skip
def test_functions_over_the_whole_range(op: str, attrs: dict[str, Any]) -> None:
    """Against float64, where denormal results are 0."""
    values = [*np.linspace(-30, 30, 481), *FAR, *(-x for x in FAR)]
    x = np.array([[*values, np.nan]] * 9, np.float32)
    graph = graph_of(op, (x.shape[1],), attrs, {})
    exact = GraphNet(graph).double()(torch.from_numpy(x).double()).numpy()
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float32)
    found = program(graph).run(x, 1, False)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-36)


@pytest.mark.parametrize(
    ("op", "attrs", "expected"),
    [
        ("log", {}, [-np.inf, -np.inf, np.nan]),
        ("sign", {}, [0.0, 0.0, 0.0]),
        ("rsqrt", {}, [np.inf, -np.inf, np.nan]),
        ("power", {"exponent": 0.5}, [0.0, 0.0, np.nan]),
        ("power", {"exponent": -0.5}, [np.inf, -np.inf, np.nan]),
        ("power", {"exponent": 0.0}, [1.0, 1.0, 1.0]),
        ("exp", {}, [1.0, 1.0, np.nan]),
    ],
)
def test_functions_of_denormal_numbers_and_nan(
    op: str, attrs: dict[str, Any], expected: list[float]
) -> None:
    """Denormal numbers count as zeros of their sign."""
    x = np.array([[1e-40, -1e-40, np.nan]] * 9, np.float32)
    found = program(graph_of(op, (3,), attrs, {})).run(x, 1, False)
    np.testing.assert_array_equal(found, [expected] * 9)


@pytest.mark.parametrize("op", ["log", "sqrt", "rsqrt", "log1p"])
def test_functions_of_positive_values(op: str) -> None:
    positive = Node("exp", (0,), (-1, 3, 5))
    check(Graph((-1, 3, 5), (positive, Node(op, (1,), (-1, 3, 5))), 2, {}))


@pytest.mark.parametrize("op", ["minimum", "maximum", "eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("constant", [(), (5,), (3, 1, 1), (1, 3, 1, 5), (3, 4, 5)])
def test_pairs_that_broadcast(op: str, constant: tuple[int, ...]) -> None:
    value = np.asarray(random(*constant), np.float32)
    check(graph_of(op, (3, 4, 5), {}, {}, (0, 1), value))
    check(graph_of(op, (3, 4, 5), {}, {}, (1, 0), value))
    check(graph_of(op, (3, 4, 5), {}, {}, (0, 1)))


def test_powers_and_choices() -> None:
    check(graph_of("pow", (3, 4), {}, {}, (1, 0)))  # of a sigmoid, which is positive
    check(graph_of("where", (3, 4), {}, {}, (0, 1, 0)))
    check(graph_of("where", (3, 4), {}, {}, (0, 1, 0), random(3, 1)))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 1, 1), (5, 5)])
def test_products_of_two_values(shape: tuple[int, ...]) -> None:
    check(graph_of("matmul", shape, {}, {}, (0, 1)))


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), min_size=1, max_size=2),
    st.tuples(st.integers(1, 20), st.sampled_from([1, 7, 64, 130, 300]), st.integers(1, 70)),
    st.sampled_from([1, 3, 17, 32]),
)
def test_products_of_drawn_sizes(
    ahead: list[tuple[int, bool, bool]], sizes: tuple[int, int, int], batch: int
) -> None:
    """Leading dimensions are equal, or 1 in the left or the right value."""
    rows, inner, columns = sizes
    left = (*(1 if one else n for n, one, _ in ahead), rows, inner)
    right = (*(1 if one else n for n, _, one in ahead), inner, columns)
    total = math.prod(left) + math.prod(right)
    whole = {"dim": 1, "step": 1}
    nodes = (
        Node("slice", (0,), (-1, math.prod(left)), {**whole, "start": 0, "end": math.prod(left)}),
        Node("reshape", (1,), (-1, *left), {"size": (-1, *left)}),
        Node("slice", (0,), (-1, math.prod(right)),
             {**whole, "start": math.prod(left), "end": total}),
        Node("reshape", (3,), (-1, *right), {"size": (-1, *right)}),
        Node("matmul", (2, 4), (-1, *np.broadcast_shapes(left[:-2], right[:-2]), rows, columns)),
    )  # fmt: skip
    engine = program(Graph((-1, total), nodes, 5, {}))
    x = random(batch, total)
    a = x[:, : math.prod(left)].reshape(batch, *left).astype(np.float64)
    b = x[:, math.prod(left) :].reshape(batch, *right).astype(np.float64)
    bound = 1e-6 * (np.abs(a) @ np.abs(b)) + 1e-30
    for threads in (1, 2):
        assert (np.abs(engine.run(x, threads, False) - a @ b) <= bound).all()


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4).filter(
        lambda shape: math.prod(shape) <= 10_000
    ),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 3, 17]),
)
def test_drawn_permutations(shape: list[int], order: Random, batch: int) -> None:
    dims = [*range(1, len(shape) + 1)]
    order.shuffle(dims)
    graph = graph_of("permute", tuple(shape), {"dims": (0, *dims)}, {}, (0,))
    x = random(batch, *shape)
    for threads in (1, 2):
        np.testing.assert_array_equal(program(graph).run(x, threads, False), x.transpose(0, *dims))


SIZES = st.lists(st.sampled_from([1, 2, 3, 17]), min_size=1, max_size=4)


@settings(max_examples=40)
@given(SIZES, st.lists(st.booleans(), min_size=4, max_size=4), st.sampled_from([1, 3, 17]))
def test_drawn_expansions(shape: list[int], ones: list[bool], batch: int) -> None:
    before = tuple(1 if one else n for n, one in zip(shape, ones))
    x = random(batch, *before)
    expected = np.broadcast_to(x, (batch, *shape))
    graph = graph_of("expand", before, {"size": (-1, *shape)}, {}, (0,))
    constant = graph_of("expand", before, {"size": (-1, *shape)}, {}, (1,), random(*before))
    for threads in (1, 2):
        np.testing.assert_array_equal(program(graph).run(x, threads, False), expected)
        np.testing.assert_array_equal(
            program(constant).run(x, threads, False),
            np.broadcast_to(constant.tensors["constant.0"], (batch, *shape)),
        )


@settings(max_examples=40)
@given(SIZES, st.data(), st.sampled_from([1, 3, 17]))
def test_drawn_slices(shape: list[int], data: st.DataObject, batch: int) -> None:
    dim = data.draw(st.integers(1, len(shape)))
    end = data.draw(st.integers(1, shape[dim - 1]))
    start, step = data.draw(st.integers(0, end - 1)), data.draw(st.integers(1, 4))
    graph = graph_of(
        "slice", tuple(shape), {"dim": dim, "start": start, "end": end, "step": step}, {}, (0,)
    )
    x = random(batch, *shape)
    expected = x[(slice(None),) * dim + (slice(start, end, step),)]
    for threads in (1, 2):
        np.testing.assert_array_equal(program(graph).run(x, threads, False), expected)


def test_reading_by_an_index() -> None:
    index = np.array([4, 0, 0, 2], np.float32)
    check(graph_of("take", (3, 5, 2), {"dim": 2}, {"index": index}))
    ids = Node("trunc", (1,), (-1, 4, 5))
    scaled = Node("mul", (0,), (-1, 4, 5), {"scalar": 0.0})  # every id is the first row
    row = Node("embedding", (2,), (-1, 4, 5, 3), {}, {"weight": "w"})
    check(Graph((-1, 4, 5), (scaled, ids, row), 3, {"w": random(6, 3)}))
    places = Node("argmax", (0,), (-1, 4, 1), {"dim": 2, "keepdim": 1})
    gathered = Node("gather", (0, 1), (-1, 4, 1), {"dim": 2})
    check(Graph((-1, 4, 5), (places, gathered), 2, {}))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize(
    "constant", [(), (1,), (5,), (4, 1), (3, 1, 1), (3, 4, 5), (1, 3, 1, 5), (1, 1, 1, 1)]
)
def test_broadcast_constants(op: str, constant: tuple[int, ...]) -> None:
    value = np.asarray(random(*constant) + 3, np.float32)
    check(graph_of(op, (3, 4, 5), {}, {}, (0, 1), value))
    if op != "div":  # by values near zero
        check(graph_of(op, (3, 4, 5), {}, {}, (1, 0), value))


def test_a_constant_larger_than_the_value() -> None:
    check(graph_of("add", (3, 1, 5), {}, {}, (0, 1), random(3, 4, 1)))


@pytest.mark.parametrize("op", ["add", "mul"])
def test_values_that_broadcast_each_other(op: str) -> None:
    """As squeeze and excitation does."""
    pooled = Node("mean", (0,), (-1, 3, 1, 1), {"dims": (2, 3), "keepdim": 1})
    check(Graph((-1, 3, 4, 5), (pooled, Node(op, (0, 1), (-1, 3, 4, 5))), 2, {}))
    check(Graph((-1, 3, 4, 5), (pooled, Node(op, (1, 0), (-1, 3, 4, 5))), 2, {}))
    check(Graph((-1, 3, 4, 5), (Node(op, (0, 0), (-1, 3, 4, 5)),), 1, {}))


@pytest.mark.parametrize("dim", [1, 2])
def test_joined_values(dim: int) -> None:
    attrs = {"dim": dim}
    check(graph_of("cat", (3, 4), attrs, {}, (1, 0, 1)))


NORMS = {"layer_norm": {"dims": 2, "eps": 1e-12}, "group_norm": {"groups": 3, "eps": 1e-12}}


@pytest.mark.parametrize("op", NORMS)
@pytest.mark.parametrize("size", [(3, 1, 2), (3, 1, 7), (6, 8, 8), (3, 1, 3001)])
@pytest.mark.parametrize("mean", [3.0, 100.0, 1e4, 1e6, -1e7])
def test_nearly_constant_rows_are_as_exact_as_in_torch(
    op: str, size: tuple[int, ...], mean: float
) -> None:
    """Against float64, for deviations of 1 to 1000 units in the last place of the mean."""
    graph = graph_of(op, size, NORMS[op], {}, inputs=(0,))
    engine, net, exact = program(graph), GraphNet(graph), GraphNet(graph).double()
    for units in (1, 8, 1000):
        unit = units * float(np.spacing(np.float32(abs(mean))))
        x = (mean + unit * random(9, *size).astype(np.float64)).astype(np.float32)
        given = torch.from_numpy(x)
        expected = exact(given.double()).numpy()
        theirs = np.abs(net(given).numpy() - expected).max()
        ours = np.abs(engine.run(x, 1, False) - expected).max()
        assert ours <= theirs + 2e-6 * np.abs(expected).max()


def test_rows_whose_squares_overflow_give_no_arbitrary_numbers() -> None:
    x = random(9, 3, 4, 5) * np.float32(1e25)
    x[:, 1] = random(9, 4, 5)
    for op, attrs in (("layer_norm", {"dims": 2, "eps": 1e-5}),
                      ("group_norm", {"groups": 3, "eps": 1e-5})):  # fmt: skip
        graph = graph_of(op, (3, 4, 5), attrs, {})
        found = program(graph).run(x, 1, False)
        assert not np.abs(found[:, [0, 2]][np.isfinite(found[:, [0, 2]])]).max(initial=0) > 5
        expected = GraphNet(graph)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2])
def test_layer_norm(dims: int) -> None:
    shape = (4, 5, 6)
    affine = {"weight": random(*shape[-dims:]), "bias": random(*shape[-dims:])}
    for tensors in (affine, {}):
        check(graph_of("layer_norm", shape, {"dims": dims, "eps": 1e-5}, tensors))


def test_batch_norm() -> None:
    statistics = {"running_mean": random(4), "running_var": np.abs(random(4)) + 0.5}
    for tensors in (statistics, {**statistics, "weight": random(4), "bias": random(4)}):
        check(graph_of("batch_norm", (4, 3, 5), {"eps": 1e-5}, tensors))


def test_max_pool_passes_nan_on() -> None:
    graph = graph_of("max_pool2d", (1, 6, 6), {**POOL, "dilation": (1, 1)}, {})
    x = random(1, 1, 6, 6)
    x[0, 0, 2, 3] = np.nan
    expected = GraphNet(graph)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(program(graph).run(x, 1, False), expected)


@pytest.mark.parametrize(
    "isa",
    ["avx2", *(pytest.param(i, marks=pytest.mark.slow) for i in ("portable", "avx512", "neon"))],
)
def test_instruction_sets_agree(isa: str) -> None:
    """In processes of their own, because the choice is one of the process."""
    if isa not in _cpp.available():
        pytest.skip(f"this CPU has no {isa}")
    here = f"{__file__}::"
    tests = ["test_convolutions", "test_epilogues", "test_operators_of_one_value",
             "test_broadcast_constants", "test_linear_layers", "test_layer_norm"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        + [here + test for test in tests],
        env={**os.environ, "DIRPRUNE_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of("relu", (2,), {}, {})
    monkeypatch.setenv("DIRPRUNE_ISA", "mmx")
    with pytest.raises(ValueError, match=r"DIRPRUNE_ISA is 'mmx', this CPU has: portable"):
        program(graph)
