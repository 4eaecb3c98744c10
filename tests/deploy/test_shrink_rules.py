"""Every rule of shrinking and every trap, on networks whose channels can be counted by hand."""

import numpy as np
import pytest

from deploy.drawn_graphs import ACTIVATIONS, Sketch
from deploy.shrink_cases import idle, shrunk, widths
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.shrinking.constants import find_constants
from dirprune.deploy.shrinking.minimal import minimize
from dirprune.deploy.shrinking.report import ShrinkReport


@pytest.mark.parametrize("op", sorted(ACTIVATIONS))
def test_a_zero_filter_goes_where_it_gives_zero(op: str) -> None:
    s = Sketch(3, 6, 6)
    x = s.add(op, s.conv(0, 8, padding=1, dead=[1, 5]), **ACTIVATIONS[op])
    s.conv(x, 4, padding=1)
    # Of all these functions, the sigmoids alone do not map 0 to 0.
    assert widths(s) == [8 if "sigmoid" in op else 6, 4]


def test_a_filter_whose_weights_cancel_is_not_zero() -> None:
    s = Sketch(2, 5, 5)
    weight = s.normal(3, 2, 1, 1)
    weight[1] = [[[1.0]], [[-1.0]]]
    assert weight.sum(axis=(1, 2, 3))[1] == 0
    s.conv(s.conv(0, 3, 1, weight=weight), 4)
    assert widths(s) == [3, 4]


def test_a_reader_whose_weights_cancel_reads() -> None:
    s = Sketch(2, 5, 5)
    weight = s.normal(4, 3, 1, 1)
    weight[:, 1, 0, 0] = [1, -1, 2, -2]
    s.conv(s.conv(0, 3), 4, 1, weight=weight)
    assert widths(s) == [3, 4]


def test_negative_zeros_are_zeros() -> None:
    s = Sketch(2, 5, 5)
    weight = s.normal(3, 2, 3, 3)
    weight[2] = -0.0
    s.conv(s.conv(0, 3, weight=weight, bias=[1, 1, -0.0]), 4, padding=1)
    assert widths(s) == [2, 4]


def test_what_nobody_reads_goes_whatever_it_holds() -> None:
    s = Sketch(2, 5, 5)
    s.conv(s.conv(0, 5, bias=np.ones(5)), 4, padding=1, unread=[0, 3])
    assert widths(s) == [3, 4]


def test_death_travels_both_ways_to_the_end() -> None:
    s = Sketch(2, 9, 9)
    x = s.conv(0, 5)
    x = s.conv(x, 6, dead=[0, 1, 2])  # 3 left, and these do not read
    s.tensors["1.weight"][3:, 4] = 0  # channel 4, so it goes too
    x = s.conv(x, 7)
    s.tensors["2.weight"][2][[3, 4, 5]] = 0  # filter 2 reads dead channels only
    s.conv(x, 3)
    assert widths(s) == [4, 3, 6, 3]


def test_channels_that_only_keep_each_other_alive_go_together() -> None:
    s = Sketch(4, 5, 5)
    stream = s.conv(0, 4, padding=1)
    for _ in range(3):
        inner = s.add("relu", s.conv(stream, 4, padding=1))
        # Channel 3 feeds inner channel 3, which feeds channel 3 alone.
        s.tensors[f"{len(s.nodes) - 2}.weight"][:3, 3] = 0
        outer = s.conv(inner, 4, padding=1)
        s.tensors[f"{len(s.nodes) - 1}.weight"][:3, 3] = 0
        stream = s.add("add", stream, outer)
    s.conv(stream, 2, unread=[3])
    assert widths(s) == [3] * 7 + [2]


# --- constants and their readers


@pytest.mark.parametrize("bias", [None, np.arange(4.0)])
def test_a_constant_is_folded_into_a_reader_that_does_not_pad(bias: np.ndarray | None) -> None:
    s = Sketch(2, 6, 6)
    x = s.conv(0, 3, dead=[1], bias=[1, 2, 3])
    s.norm(s.conv(x, 4, bias=bias))
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [2, 4]
    expected = 2 * s.tensors["1.weight"][:, 1].sum(axis=(1, 2)) + (0 if bias is None else bias)
    np.testing.assert_allclose(graph.tensors["1.bias"], expected, rtol=1e-6)


def test_a_constant_that_is_not_zero_stays_where_the_reader_pads() -> None:
    s = Sketch(2, 6, 6)
    s.conv(s.conv(0, 3, dead=[1, 2], bias=[1, 2, 0]), 4, padding=1)
    assert widths(s) == [2, 4]
    assert idle(s) == {"padded": 1}


def test_taps_that_never_meet_the_padding_do_not_count() -> None:
    s = Sketch(2, 6, 6)
    weight = s.normal(4, 3, 3, 3)
    weight[:, 1] = 0
    weight[:, 1, 1, 1] = 2
    s.conv(s.conv(0, 3, dead=[1], bias=[1, 2, 3]), 4, padding=1, weight=weight)
    assert widths(s) == [2, 4]
    s.tensors["1.weight"][0, 1, 0, 1] = 1
    assert widths(s) == [3, 4]


def test_a_stride_may_step_over_the_padding() -> None:
    # 7 pixels and 1 of padding, in steps of 2: the last window starts at 5 and ends at 7.
    for size, left in ((7, [3, 4]), (6, [2, 4])):
        s = Sketch(2, size, size)
        weight = np.zeros((4, 3, 3, 3))
        weight[:, :, 1:, 1:] = s.normal(4, 3, 2, 2)
        x = s.conv(0, 3, 1, dead=[1], bias=[1, 2, 3])
        s.conv(x, 4, padding=1, stride=2, weight=weight)
        assert widths(s) == left


@pytest.mark.parametrize(("bias", "left"), [(-1.0, 2), (1.0, 3)])
def test_a_dead_channel_is_cut_before_padding_if_its_activation_is_zero(
    bias: float, left: int
) -> None:
    s = Sketch(2, 6, 6)
    x = s.add("relu", s.conv(0, 3, dead=[1], bias=[0, bias, 0]))
    s.conv(x, 4, padding=1)
    assert widths(s) == [left, 4]


def test_batch_norm_makes_a_constant_of_a_dead_filter() -> None:
    s = Sketch(2, 6, 6)
    x = s.conv(0, 3, dead=[0, 1], bias=[5, 5, 5])
    own = {"running_mean": [5, 3, 0], "running_var": [1, 4, 1], "weight": [7, 2, 1],
           "bias": [0, 1, 0]}  # fmt: skip
    x = s.add("batch_norm", x, tensors=own, eps=0.0)
    s.conv(x, 4, padding=1)
    graph, report = shrunk(s)  # channel 0 is 0 + 7 (5 - 5) / 1 = 0, channel 1 is 1 + 2 (5 - 3) / 2
    assert [layer.after.outputs for layer in report.layers] == [2, 4]
    s = Sketch(2, 6, 6)
    x = s.add("batch_norm", s.conv(0, 3, dead=[0, 1], bias=[5, 5, 5]), tensors=own, eps=0.0)
    s.conv(x, 4)  # does not pad
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [1, 4]
    expected = 3 * s.tensors["2.weight"][:, 1].sum(axis=(1, 2))
    np.testing.assert_allclose(graph.tensors["2.bias"], expected, rtol=1e-6)


@pytest.mark.parametrize(("beta", "left"), [([9, 0, 9, -1], 2), ([9, 1, 9, 2], 4)])
def test_gamma_zero_silences_a_filter_that_is_alive(beta: list[float], left: int) -> None:
    s = Sketch(2, 6, 6)
    x = s.add("relu", s.norm(s.conv(0, 4), gamma=[1, 0, 1, 0], beta=beta))
    s.conv(x, 3, padding=1)
    assert widths(s) == [left, 3]


@pytest.mark.parametrize(("padding", "include", "left"), [(0, 1, 2), (1, 0, 2), (1, 1, 3)])
def test_average_pooling_that_counts_its_padding(padding: int, include: int, left: int) -> None:
    s = Sketch(2, 7, 7)
    x = s.conv(0, 4, dead=[0, 1], bias=[1, 0, 1, 1])
    x = s.pool("avg_pool2d", x, 3, padding, count_include_pad=include, ceil_mode=1)
    s.conv(x, 3, 1)
    assert widths(s) == [left, 3]


def test_max_pooling_ignores_padding() -> None:
    s = Sketch(2, 8, 8)
    x = s.conv(0, 3, 1, dead=[1], bias=[1, -2, 3])
    x = s.pool("max_pool2d", x, 3, 1)
    graph, _ = shrunk_after(s, x)
    expected = -2 * s.tensors["2.weight"][:, 1, 0, 0]
    np.testing.assert_allclose(graph.tensors["2.bias"], expected, rtol=1e-6)


def shrunk_after(s: Sketch, x: int) -> tuple[Graph, ShrinkReport]:
    s.conv(x, 4, 1)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [2, 4]
    return graph, report


@pytest.mark.parametrize(("value", "left"), [(0.0, 3), (2.0, 2)])
def test_explicit_padding_with_the_constants_own_value(value: float, left: int) -> None:
    s = Sketch(2, 6, 6)
    x = s.conv(0, 3, dead=[1], bias=[1, 2, 3])
    s.conv(s.add("pad", x, padding=(1, 0, 0, 2), value=value), 4)
    assert widths(s) == [left, 4]


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("upsample_nearest", {"output": (9, 7)}),
        ("upsample_bilinear", {"output": (9, 7), "align_corners": 0}),
        ("adaptive_avg_pool2d", {"output": (2, 2)}),
        ("adaptive_max_pool2d", {"output": (1, 1)}),
        ("mean", {"dims": (2, 3), "keepdim": 1}),
        ("dropout", {"p": 0.5}),
        ("mul", {"scalar": 3.0}),
        ("sub", {"scalar": 1.0, "reversed": 1}),
        ("div", {"scalar": 2.0}),
    ],
)
def test_a_constant_passes_through(op: str, attrs: dict[str, object]) -> None:
    s = Sketch(2, 6, 6)
    shrunk_after(s, s.add(op, s.conv(0, 3, dead=[1], bias=[1, 2, 3]), **attrs))


def test_flattening_gives_every_channel_its_columns() -> None:
    s = Sketch(2, 6, 6)
    x = s.flatten(s.add("relu", s.conv(0, 5, dead=[1, 4], bias=[1, 2, 3, 4, 0])))
    s.linear(x, 7)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [3, 7]
    assert report.layers[1].after.inputs == 3 * 16
    expected = 2 * s.tensors["3.weight"][:, 16:32].sum(axis=1)
    np.testing.assert_allclose(graph.tensors["3.bias"], expected, rtol=1e-5)


def test_one_column_that_reads_keeps_its_channel() -> None:
    s = Sketch(2, 6, 6)
    x = s.flatten(s.conv(0, 5))
    s.linear(x, 7, unread=[i for i in range(80) if i != 37])
    _graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [1, 7]
    assert report.layers[1].after.inputs == 16


def unknown(sketch: Sketch) -> bool:
    graph = sketch.graph()
    return bool(np.isnan(find_constants([graph], graph.tensors)[-1]).all())


def test_a_window_of_only_padding_is_not_the_constant() -> None:
    s = Sketch(2, 3, 3)
    x = s.conv(0, 3, 1, dead=range(3), bias=[1, 2, 3])
    window = {"kernel": (2, 2), "stride": (1, 1), "padding": (1, 1), "ceil_mode": 0}
    s.add("max_pool2d", x, dilation=(4, 4), **window)  # reads pixels -1 and 3 of 0 to 2
    assert unknown(s)


def test_infinity_is_no_constant() -> None:
    s = Sketch(2, 3, 3)
    s.add("div", s.conv(0, 3, 1, dead=range(3)), scalar=1.0, reversed=1)
    assert unknown(s)


# --- channels that are tied to each other


def test_shared_filters_are_cut_alike() -> None:
    s = Sketch(3, 9, 9)
    x = s.conv(0, 3, dead=[0])
    shared = {"weight": "0.weight"}
    attrs = dict(s.nodes[0].attrs)
    y = s.add("conv2d", x, tensors=shared, **attrs)
    s.conv(y, 2, unread=[0])
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [3, 3, 2]  # the input stays
    assert report.idle == {"shared": 2}
    s = Sketch(3, 9, 9)
    x = s.conv(0, 4, 1)
    for _ in range(2):
        x = s.add("conv2d", x, tensors={"weight": "w"} if "w" in s.tensors else put(s), **attrs)
    s.conv(x, 2, unread=[1])
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [3, 3, 3, 2]
    assert graph.nodes[1].tensors == graph.nodes[2].tensors


def put(s: Sketch) -> dict[str, str]:
    s.tensors["w"] = s.normal(4, 4, 3, 3)
    s.tensors["w"][1] = 0
    s.tensors["w"][:, 1] = 0
    return {"weight": "w"}


def test_readers_that_share_a_bias_may_come_to_differ() -> None:
    s = Sketch(3, 6, 6)
    x, y = (s.conv(0, 3, dead=[1], bias=[0, k, 0]) for k in (1, 2))
    a = s.conv(x, 2, weight=s.normal(2, 3, 3, 3), bias=[1, 2])
    shared = {"weight": f"{a - 1}.weight", "bias": f"{a - 1}.bias"}
    b = s.add("conv2d", y, tensors=shared, **s.nodes[a - 1].attrs)
    s.add("cat", a, b, dim=1)
    graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [2, 2, 2, 2]
    first, second = (n for n in graph.nodes if "bias" in n.tensors and n.inputs != (0,))
    assert first.tensors["weight"] == second.tensors["weight"]
    assert first.tensors["bias"] != second.tensors["bias"]


# --- ends


def test_no_channel_of_the_output_is_removed() -> None:
    s = Sketch(3, 6, 6)
    s.linear(s.flatten(s.conv(0, 4)), 6, dead=range(5), bias=np.arange(6.0))
    assert widths(s) == [4, 6]
    assert idle(s) == {"output": 5}


def test_a_layer_that_dies_keeps_one_channel() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 8)
    x = s.add("relu", s.conv(x, 8, dead=range(8), bias=-np.ones(8)))
    x = s.conv(x, 4, padding=1, bias=np.arange(4.0))
    _graph, report = shrunk(s)
    assert [layer.after.outputs for layer in report.layers] == [1, 1, 4]
    assert report.idle == {"last": 2, "output": 4}


def test_a_network_of_zeros_still_returns_every_batch() -> None:
    s = Sketch(3, 6, 6)
    x = s.conv(0, 8, dead=range(8))
    s.linear(s.flatten(s.conv(x, 8, dead=range(8))), 5, bias=np.arange(5.0))
    assert widths(s) == [1, 1, 5]


def test_a_network_without_dead_channels_is_not_changed() -> None:
    s = Sketch(3, 6, 6)
    s.linear(s.flatten(s.add("relu", s.conv(0, 4, bias=np.ones(4)))), 5)
    before = s.graph()
    after = minimize(before).network.graph
    assert after.nodes == before.nodes
    assert all((after.tensors[name] == t).all() for name, t in before.tensors.items())


def test_the_report_counts() -> None:
    s = Sketch(2, 6, 6)
    x = s.add("relu", s.conv(0, 4, dead=[1, 2], bias=[1, 1, -1, 1]))
    s.linear(s.flatten(s.conv(x, 3, padding=1)), 5, bias=np.zeros(5))
    _, report = shrunk(s)
    first, second, last = report.layers
    assert (first.before.weights, first.after.weights) == (4 * 2 * 9 + 4, 3 * 2 * 9 + 3)
    assert (first.before.macs, first.after.macs) == (16 * 4 * 2 * 9, 16 * 3 * 2 * 9)
    assert (second.before.inputs, second.after.inputs) == (4, 3)
    assert (last.before.macs, last.after.macs) == (5 * 48, 5 * 48)
    assert report.parameters == (76 + 108 + 245, 57 + 81 + 245)
    assert report.macs[1] == sum(layer.after.macs for layer in report.layers)
    assert first.idle == {"padded": 1}
    reason = "it is a constant that is not zero, and a layer that pads reads it"
    assert f"idle but kept, 1 in 0: {reason}" in str(report)
