"""A graph is checked when it is made, and its bytes when they are read."""

import pkgutil
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dirprune import deploy
from dirprune.deploy.file.encode import KEYS, OPS, ROLES, decode, encode
from dirprune.deploy.graph.graph import Graph, Node
from dirprune.deploy.graph.operators import OPERATORS
from dirprune.deploy.graph.shapes import infer_shape


def conv(path: str = "conv", **changes: Any) -> Node:
    attrs = {"stride": (2, 1), "padding": (1, 1, 1, 0), "dilation": (1, 1), "groups": 1}
    node = Node("conv2d", (0,), (-1, 4, 4, 7), attrs, {"weight": "conv.weight"}, path)
    return replace(node, **changes)


def graph(*more: Node, shape: tuple[int, ...] = (-1, 3, 8, 8), output: int = 1) -> Graph:
    weight = np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3)
    return Graph(shape, (conv(), *more), output, {"conv.weight": weight})


def test_bytes_give_the_graph_back() -> None:
    nodes = (
        Node("leaky_relu", (1,), (-1, 4, 4, 7), {"slope": 0.1}, {}, "näme"),
        Node("add", (1, 2), (-1, 4, 4, 7)),
        Node("mean", (3,), (-1, 4), {"dims": (2, 3), "keepdim": 0}),
    )
    before = graph(*nodes, output=4)
    after = decode(encode(before), before.tensors)
    assert (after.shape, after.nodes, after.output) == (before.shape, before.nodes, before.output)
    assert after.tensors is before.tensors
    assert after.readers == ((0,), (1, 2), (2,), (3,), ())


def test_codes_are_frozen() -> None:
    """They are in files: new ones go to the end."""
    assert " ".join(OPS) == (
        "conv2d linear batch_norm affine relu relu6 leaky_relu elu gelu silu sigmoid tanh "
        "hardswish hardsigmoid softmax add sub mul div constant cat slice max_pool2d avg_pool2d "
        "adaptive_avg_pool2d adaptive_max_pool2d mean reshape permute pad upsample_nearest "
        "upsample_bilinear layer_norm dropout exp log abs sqrt rsqrt sin cos erf floor ceil round "
        "sign trunc log1p expm1 mish selu logical_not softplus power clamp minimum maximum pow eq "
        "ne lt le gt ge where sum amax amin prod argmax argmin cumsum expand take embedding "
        "gather matmul group_norm conv1d conv_transpose2d dilate batch_size batch_index "
        "conv3d sort argsort atan"
    )
    assert " ".join(ROLES) == (
        "weight bias running_mean running_var scale shift value num_batches_tracked index"
    )
    assert " ".join(KEYS) == (
        "stride padding dilation groups activation activation_parameter eps slope alpha tanh dim "
        "scalar reversed start end step kernel ceil_mode count_include_pad output dims keepdim "
        "size value align_corners p momentum trained beta threshold exponent low high "
        "output_padding descending"
    )
    for rule in OPERATORS.values():
        assert {*rule.tensors, *rule.optional_tensors} <= set(ROLES)
        assert {*rule.attrs, *rule.optional_attrs} <= set(KEYS)


_NO_ENTRY = {"inputs": (1, 1), "attrs": {}, "optional_attrs": {}, "epilogue": False,
             "reads_constants": False, "complete": False}  # fmt: skip


def test_both_sides_know_every_operator() -> None:
    """Each has a record in Python and an entry in C++ that ask for the same."""
    entries = pytest.importorskip("dirprune._cpp").operators()
    assert list(entries) == list(OPERATORS)
    for name, record in OPERATORS.items():
        own = {
            "inputs": record.inputs,
            "tensors": record.tensors,
            "optional_tensors": record.optional_tensors,
            "attrs": dict(record.attrs),
            "optional_attrs": dict(record.optional_attrs),
            "epilogue": record.epilogue,
            "reads_constants": record.reads_constants,
            "complete": record.lower is None,
        }
        if record.lower is not None:  # the engine never sees it
            assert entries[name] == {**dict.fromkeys(own, ()), **_NO_ENTRY}, name
            continue
        assert entries[name] == own, name
        assert callable(record.shape)
        assert callable(record.run)
        # What only a lowered graph has is neither captured nor exported.
        only_lowered = name in ("affine", "dilate")
        assert (record.onnx is None) == only_lowered, name
        assert bool(record.captured) != (only_lowered or name == "constant"), name


X = (-1, 6, 4, 4)


@pytest.mark.parametrize(
    ("op", "inputs", "tensors", "attrs", "shape"),
    [
        ("add", [X, X], {}, {}, X),
        ("mul", [X, (-1, 6, 1, 1)], {}, {}, X),
        ("sub", [(-1, 1, 4, 4), (6, 1, 1)], {}, {}, X),
        ("div", [X, ()], {}, {}, X),
        ("add", [(1, 6, 4, 4), (-1, 6, 1, 1)], {}, {}, X),
        ("slice", [X], {}, {"dim": 1, "start": 1, "end": 6, "step": 2}, (-1, 3, 4, 4)),
        ("mean", [X], {}, {"dims": (3, 1), "keepdim": 1}, (-1, 1, 4, 1)),
        ("permute", [X], {}, {"dims": (0, 2, 3, 1)}, (-1, 4, 4, 6)),
        ("pad", [X], {}, {"padding": (1, 2, 3, 4), "value": 0.0}, (-1, 6, 7, 11)),
        ("reshape", [X], {}, {"size": (-1, 2, 3, 16)}, (-1, 2, 3, 16)),
        ("linear", [(-1, 5, 6)], {"weight": (2, 6), "bias": (2,)}, {}, (-1, 5, 2)),
        ("adaptive_avg_pool2d", [X], {}, {"output": (7, 1)}, (-1, 6, 7, 1)),
    ],
)
def test_shapes(op: str, inputs: Any, tensors: Any, attrs: Any, shape: tuple[int, ...]) -> None:
    assert infer_shape(op, inputs, tensors, attrs) == shape


def raw(change: Callable[[bytearray], object]) -> Callable[[], object]:
    data = bytearray(encode(graph()))
    change(data)
    return lambda: decode(bytes(data), graph().tensors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graph(shape=(1, 3, 8, 8)), r"\(-1, ...\)"),
        (lambda: graph(shape=(-1, 2, 8, 8)), r"node 0 \(conv2d, conv\): a weight"),
        (lambda: graph(shape=(-1, 3, 8, 0)), "out of range"),
        (lambda: graph(output=2), "no value 2"),
        (lambda: graph(Node("sinh", (1,), (-1, 4, 4, 7))), "unknown operator"),
        (lambda: graph(Node("relu", (2,), (-1, 4, 4, 7))), r"node 1 \(relu, root\): reads values"),
        (lambda: graph(Node("relu", (), (-1, 4, 4, 7))), "inputs"),
        (lambda: graph(Node("relu", (1,), (-1, 4, 4, 8))), "it has"),
        (lambda: graph(Node("relu", (1,), (-1, 4, 4, 7), {"p": 1.0})), "no attribute p"),
        (lambda: graph(Node("dropout", (1,), (-1, 4, 4, 7))), "lacks attribute p"),
        (lambda: graph(Node("dropout", (1,), (-1, 4, 4, 7), {"p": 1})), "must be float"),
        (lambda: graph(Node("dropout", (1,), (-1, 4, 4, 7), {"p": np.nan})), "must be float"),
        (lambda: graph(Node("dropout", (1,), (-1, 4, 4, 7), {"p": 2.0})), "from 0 to 1"),
        (lambda: graph(conv(tensors={"weight": "w"})), "no tensor w"),
        (lambda: graph(conv(tensors={})), "lacks tensor weight"),
        (lambda: graph(conv(inputs=(0, 0))), "same shape"),
        (lambda: graph(conv(attrs={**conv().attrs, "stride": (0, 1)})), "at least 1"),
        (lambda: graph(conv(attrs={**conv().attrs, "stride": (1 << 40, 1)})), "must be pair"),
        (lambda: graph(conv(attrs={**conv().attrs, "groups": 3})), "3 groups"),
        (lambda: graph(conv(attrs={**conv().attrs, "activation": 99})), "activation"),
        (lambda: graph(Node("softmax", (1,), (-1, 4, 4, 7), {"dim": 0})), "of a sample"),
        (lambda: graph(Node("add", (1,), (-1, 4, 4, 7))), "either"),
        (lambda: graph(Node("add", (0, 1), (-1, 4, 4, 7))), "broadcast"),
        (lambda: graph(Node("mean", (1,), (-1,), {"dims": (1, 1), "keepdim": 0})), "repeat"),
        (lambda: graph(Node("reshape", (1,), (-1, 5), {"size": (-1, 5)})), "the batch stays"),
        (lambda: graph(Node("reshape", (1,), (-1, 0), {"size": (-1, 0)})), "out of range"),
        (lambda: Graph((-1,), (), 0, {"a..b": np.zeros(1, np.float32)}), "name"),
        (lambda: Graph((-1,), (), 0, {"a": np.zeros(1)}), "float64"),  # type: ignore[dict-item]
        (lambda: Graph((-1,), (), 0, {"a": np.zeros(0, np.float32)}), "out of range"),
        (raw(lambda data: data.append(0)), "1 bytes follow"),
        (raw(lambda data: data.pop()), "ends in the middle"),
        (raw(lambda data: data.__setitem__(0, 4)), "version 4"),
        (raw(lambda data: data.__setitem__(slice(4, 8), b"\xff" * 4)), "a count of"),
        (raw(lambda data: data.__setitem__(10, 0xFF)), "not UTF-8"),
        (raw(lambda data: data.__setitem__(10, 65)), "not those"),
    ],
)
def test_mistakes(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_every_truncation_is_an_error() -> None:
    data = encode(graph())
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"ends|count|not those"):
            decode(data[:end], graph().tensors)


def test_duplicates_are_refused() -> None:
    data = encode(graph(Node("relu", (1,), (-1, 4, 4, 7), path="#")))
    at = data.index(b"#")
    # inputs, tensors, attributes: add p twice to a node that has none
    p = struct.pack("<BBd", KEYS.index("p"), 1, 0.5)
    changed = data[: at + 7] + b"\x02" + p + p + data[at + 8 :]
    with pytest.raises(ValueError, match="attribute p is duplicated"):
        decode(changed, graph().tensors)
    again = data[: at + 6] + b"\x02" + struct.pack("<BIBI", 0, 0, 0, 0) + data[at + 7 :]
    with pytest.raises(ValueError, match="duplicated"):
        decode(again, graph().tensors)


def test_no_module_hides_a_public_name() -> None:
    """Importing a submodule would put it where the function was."""
    assert not {module.name for module in pkgutil.iter_modules(deploy.__path__)} & {
        *deploy.__all__
    }
