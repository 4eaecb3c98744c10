"""What shrinking removes where values meet: sums, products, groups, concatenations, slices."""

import numpy as np
import pytest

from deploy.drawn_graphs import Sketch
from deploy.shrink_cases import idle, only, shrunk, widths


def residual(first: list[int], second: list[int], unread: list[int]) -> Sketch:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 6, padding=1, dead=first)
    y = s.conv(s.add("relu", x), 6, padding=1, dead=second)
    s.conv(s.add("relu", s.add("add", x, y)), 2, unread=unread)
    return s


def test_a_residual_stream_loses_channels_that_are_always_zero() -> None:
    s = residual([0, 1, 2], [1, 2, 3], [])
    assert widths(s) == [4, 4, 2]
    assert idle(s) == {"joined": 2}


def test_a_residual_stream_loses_unread_channels() -> None:
    s = residual([], [], [4, 5])
    assert widths(s) == [6, 6, 2]  # the block reads them
    s = residual([], [], [4, 5])
    s.tensors["2.weight"][:, 4] = 0
    assert widths(s) == [5, 5, 2]


def test_a_branch_that_has_died_is_replaced() -> None:
    s = residual([], list(range(6)), [])
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [6, 0, 2]
    assert [node.op for node in graph.nodes] == ["conv2d", "relu", "conv2d"]


def test_a_branch_that_has_died_leaves_its_constant() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 4, padding=1)
    y = s.norm(s.conv(x, 4, padding=1, dead=range(4)), beta=[1, 2, 3, 4])
    s.conv(s.add("mul", y, x), 2)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [4, 0, 2]
    assert graph.tensors[only(graph, "constant").tensors["value"]].shape == (4, 1, 1)


def test_squeeze_and_excite() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 5, dead=[2])
    gate = s.add("mean", x, dims=(2, 3), keepdim=1)
    gate = s.add("relu", s.conv(gate, 4, 1, dead=[0], bias=[1, 1, 1, 1]))
    gate = s.add("sigmoid", s.conv(gate, 5, 1, bias=np.ones(5)))
    s.conv(s.add("mul", gate, x), 2, padding=1)
    assert widths(s) == [4, 3, 4, 2]


def test_zero_times_anything_is_zero() -> None:
    s = Sketch(3, 6, 6)
    x, y = s.conv(0, 5, dead=[2]), s.conv(0, 5, dead=[1, 2])
    s.conv(s.add("mul", x, y), 2, padding=1)
    assert widths(s) == [3, 3, 2]


def test_zero_divided_by_what_may_be_zero_is_not_known() -> None:
    s = Sketch(3, 6, 6)
    x, y = s.conv(0, 5, dead=[2]), s.add("sigmoid", s.conv(0, 5))
    s.conv(s.add("div", x, y), 2, padding=1)
    assert widths(s) == [5, 5, 2]


@pytest.mark.parametrize(("dead", "left"), [([2], 6), ([2, 3], 4), ([0, 1, 2], 4)])
def test_grouped_convolutions_lose_whole_groups(dead: list[int], left: int) -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 6)
    x = s.conv(x, 6, groups=3, dead=dead)
    s.conv(x, 2, padding=1)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [left, left, 2]
    assert graph.nodes[1].attrs["groups"] == left // 2
    assert report.idle.get("grouped", 0) == len(dead) - (6 - left)


def test_a_depthwise_channel_goes_with_its_input() -> None:
    s = Sketch(3, 8, 8)
    x = s.add("relu6", s.norm(s.conv(0, 6, 1, dead=[0]), beta=[0] * 6, plain=True))
    x = s.add("relu6", s.norm(s.conv(x, 6, padding=1, groups=6, dead=[1]), beta=[-1] * 6))
    s.conv(x, 4, 1, unread=[2])
    graph, report = shrunk(s)
    # Filter 0 gives 0 and channel 1 is cut off; relu6(-1 - ...) is known only without a filter.
    assert [layer.after.outputs for layer in report.layers] == [3, 3, 4]
    assert graph.nodes[3].attrs["groups"] == 3


def test_one_input_channel_with_two_depthwise_outputs() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 4)
    s.conv(s.conv(x, 8, groups=4, dead=[0, 1, 2]), 2, padding=1)
    assert widths(s) == [3, 6, 2]


def test_concatenation_shifts_the_columns() -> None:
    s = Sketch(3, 6, 6)
    x, y = s.conv(0, 4, dead=[0], bias=[2, 1, 1, 1]), s.conv(0, 3, dead=[2], bias=[1, 1, 3])
    s.conv(s.add("cat", x, y, x, dim=1), 2)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [3, 2, 2]
    assert report.layers[2].after.inputs == 3 + 2 + 3
    weight = s.tensors["3.weight"].sum(axis=(2, 3))
    expected = 2 * weight[:, 0] + 3 * weight[:, 6] + 2 * weight[:, 7]
    np.testing.assert_allclose(graph.tensors["3.bias"], expected, rtol=1e-5)


def test_a_part_of_a_concatenation_may_vanish() -> None:
    s = Sketch(3, 6, 6)
    x, y, z = s.conv(0, 4), s.conv(0, 3, dead=range(3)), s.conv(0, 2)
    x = s.add("cat", x, y, z, dim=1)
    s.conv(x, 2, unread=[7, 8])
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [4, 0, 0, 2]
    assert [node.op for node in graph.nodes] == ["conv2d", "conv2d"]


def test_slices_keep_their_places() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 8, dead=[0, 3, 4, 7])
    s.conv(s.add("mul", s.cut(x, 0, 4), s.cut(x, 4, 8)), 2, padding=1)
    graph, report = shrunk(s)  # 0 | 4 and 3 | 7 are zero, 4 and 7 with their partners
    assert [layer.after.outputs for layer in report.layers] == [4, 2]
    assert [n.attrs["end"] for n in graph.nodes if n.op == "slice"] == [2, 4]


def test_a_slice_with_a_step_keeps_everything() -> None:
    s = Sketch(3, 6, 6)
    x = s.add("slice", s.conv(0, 8, dead=[0, 1]), dim=1, start=0, end=8, step=2)
    s.conv(x, 2)
    assert widths(s) == [8, 2]
    assert idle(s) == {"mixed": 2}


@pytest.mark.parametrize(("dead", "left"), [([1, 4], 4), ([1], 6), ([0, 1, 2], 3), ([0, 4], 6)])
def test_a_channel_shuffle_loses_rows_or_columns(dead: list[int], left: int) -> None:
    s = Sketch(3, 6, 6)
    x = s.add("reshape", s.conv(0, 6, dead=dead), size=(-1, 2, 3, 4, 4))
    x = s.add("reshape", s.add("permute", x, dims=(0, 2, 1, 3, 4)), size=(-1, 6, 4, 4))
    s.conv(x, 2, padding=1)
    assert widths(s) == [left, 2]


@pytest.mark.parametrize(
    ("op", "attrs"),
    [("softmax", {"dim": 1}), ("layer_norm", {"dims": 3, "eps": 1e-5}),
     ("mean", {"dims": (1,), "keepdim": 1})],
)  # fmt: skip
def test_no_channel_is_removed_where_all_are_mixed(op: str, attrs: dict[str, object]) -> None:
    s = Sketch(3, 6, 6)
    x = s.add(op, s.conv(0, 4, dead=[1, 2]), **attrs)
    s.conv(x, 2)
    assert widths(s) == [4, 2]
    assert idle(s) == {"mixed": 2}


def test_a_softmax_over_pixels_leaves_channels_apart() -> None:
    s = Sketch(3, 6, 6)
    s.conv(s.add("softmax", s.conv(0, 4), dim=3), 2, unread=[1])
    assert widths(s) == [3, 2]


def test_channels_may_come_last() -> None:
    s = Sketch(3, 6, 6)
    x = s.add("permute", s.conv(0, 4, dead=[0], bias=[1, 1, 1, 1]), dims=(0, 2, 3, 1))
    x = s.linear(s.add("relu", s.linear(x, 8, dead=[3], bias=np.ones(8))), 5)
    x = s.add("permute", x, dims=(0, 3, 1, 2))
    s.conv(x, 2, unread=[1, 2])
    assert widths(s) == [3, 7, 3, 2]


@pytest.mark.parametrize("layer", ["conv", "linear", "pool"])
def test_channels_in_place_of_pixels_are_kept(layer: str) -> None:
    s = Sketch(3, 6, 6)
    x = s.add("permute", s.conv(0, 5, 1, dead=[1]), dims=(0, 2, 1, 3))  # height, channels, width
    if layer == "conv":
        s.conv(x, 2, 1)
    elif layer == "linear":
        s.linear(x, 2)
    else:
        x = s.add("permute", s.pool("max_pool2d", x), dims=(0, 2, 1, 3))
        s.conv(x, 2, 1, unread=[0])
    assert widths(s)[0] == 5


def test_constants_are_cut_with_their_operands() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 4, dead=[1])
    scale = s.constant(np.arange(1.0, 5).reshape(4, 1, 1))
    mask = s.constant(s.normal(1, 4, 4))
    s.conv(s.add("mul", s.add("mul", x, scale), mask), 2, padding=1)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [3, 2]
    assert graph.tensors["1.value"].ravel().tolist() == [1, 3, 4]
    assert graph.tensors["2.value"].shape == (1, 4, 4)


def test_a_constant_that_is_read_twice_stays_whole() -> None:
    s = Sketch(3, 6, 6)
    scale = s.constant(np.arange(1.0, 5).reshape(4, 1, 1))
    x, y = (s.add("mul", scale, s.conv(0, 4, dead=[k])) for k in (1, 2))
    s.conv(s.add("cat", x, y, dim=1), 2, padding=1)
    assert widths(s) == [4, 4, 2]


@pytest.mark.parametrize("op", ["sub", "div"])
def test_the_order_counts_where_a_branch_has_died(op: str) -> None:
    for swapped, left in ((False, 1), (True, 2)):
        s = Sketch(3, 6, 6)
        x = s.add("sigmoid", s.conv(0, 4))
        neutral = {"sub": 0.0, "div": 1.0}[op]
        y = s.norm(s.conv(0, 4, dead=range(4)), beta=np.full(4, neutral), gamma=np.zeros(4))
        s.add(op, *((y, x) if swapped else (x, y)))
        graph, _ = shrunk(s)
        assert [node.op for node in graph.nodes].count(op) == left - 1


def test_a_dead_map_that_a_gate_scales_stays_a_map() -> None:
    s = Sketch(3, 6, 6)
    gate = s.add("sigmoid", s.add("mean", s.conv(0, 4), dims=(2, 3), keepdim=1))
    x = s.conv(0, 4, dead=range(4), bias=[1, 2, 3, 4])
    s.conv(s.add("add", s.add("mul", x, gate), s.add("sub", x, s.conv(0, 4))), 2)
    graph, _ = shrunk(s)
    assert only(graph, "mul").shape == (-1, 4, 4, 4)


def test_a_dead_map_of_zeros_still_broadcasts_a_summand() -> None:
    s = Sketch(3, 6, 6)
    gate = s.add("mean", s.conv(0, 4), dims=(2, 3), keepdim=1)
    s.conv(s.add("add", gate, s.conv(0, 4, dead=range(4))), 2)
    graph, _ = shrunk(s)
    assert only(graph, "add").shape == (-1, 4, 4, 4)


def test_a_map_that_is_spread_over_all_channels() -> None:
    s = Sketch(3, 6, 6)
    x, gate = s.conv(0, 4, dead=[1]), s.add("sigmoid", s.conv(0, 1))
    s.conv(s.add("mul", x, gate), 2, padding=1)
    assert widths(s) == [3, 1, 2]
