"""One file for all heights, widths or lengths within bounds."""

import json
import pickle
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dirprune.deploy import Engine, capture, load, save
from dirprune.deploy.file.encode import decode, encode
from dirprune.deploy.graph.dynamic import Dynamic
from dirprune.deploy.graph.fold import fold
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.sizes import SizeRange, evaluate
from dirprune.deploy.graph.traced_sizes import SizeSpace, least

_cpp = pytest.importorskip("dirprune._cpp", reason="dirprune was installed without its extension")


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(8, 5, 1),
    )  # fmt: skip


class Pyramid(nn.Module):
    """Maps of three sizes, each added to the next larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3, 2, 1) for i in range(3))
        self.lateral = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.stages[0](x)
        b = self.stages[1](a)
        c = self.stages[2](b)
        b = b + F.interpolate(c, size=b.shape[-2:], mode="nearest")
        a = self.lateral(a) + F.interpolate(b, size=a.shape[-2:], mode="bilinear")
        whole = F.interpolate(c, size=x.shape[-2:], mode="bilinear", align_corners=True)
        return {"large": a, "small": c, "whole": whole, "mean": a.sum((2, 3)) / a[0, 0].numel()}


class Unet(nn.Module):
    """Halves the maps twice and joins the result with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.up, self.out = nn.ConvTranspose2d(4, 4, 4, 4), nn.Conv2d(7, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        joined = torch.cat([self.up(self.down(image)), image], 1)
        return self.out(joined)


class Encoder(nn.Module):
    """Embeddings of tokens and positions, a mask, attention and a pooled output."""

    def __init__(self, length: int = 24) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(30, 16), nn.Embedding(length, 16)
        self.register_buffer("ids", torch.arange(length)[None])
        self.learned = nn.Parameter(torch.randn(1, length, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.places(self.ids[:, :length]) + self.learned[:, :length]
        x = x + torch.arange(length)[:, None] / length
        x = self.layers(x, src_key_padding_mask=attention_mask == 0)
        return x, torch.tanh(x[:, 0])


class Causal(nn.Module):
    """Attention to earlier places only; the last place is returned."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return torch.cat([y[:, -1], y[:, x.shape[1] // 2], y[:, :1].flatten(1)], 1)


IDS = torch.randint(0, 30, (2, 9))
MASK = torch.ones(2, 9, dtype=torch.int64)
MASK[0, 6:] = 0
MAPS = {2: (17, 70), 3: (20, 45)}
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "convolutions": (convolutional, torch.randn(2, 3, 32, 32), {0: MAPS}),
    "pyramid": (Pyramid, torch.randn(2, 3, 32, 32), {"x": MAPS}),
    "U-Net": (Unet, torch.randn(2, 3, 32, 32), {"image": {2: (16, 64, 4), 3: (20, 44, 4)}}),
    "one dimension": (Unet, torch.randn(2, 3, 32, 16), {"image": {2: (16, 64, 8)}}),
    "encoder": (
        Encoder, (IDS, MASK), {"input_ids": {1: (1, 24)}, "attention_mask": {1: (1, 24)}}
    ),
    "encoder by name": (
        Encoder, {"attention_mask": MASK[:, :1], "input_ids": IDS[:, :1]},
        {i: {1: (1, 24)} for i in (0, 1)},
    ),
    "maps of one pixel": (Pyramid, torch.randn(2, 3, 8, 8), {"x": {2: (1, 70), 3: (8, 45)}}),
    "causal": (Causal, torch.randn(2, 9, 8), {"x": {1: (1, 40)}}),
}  # fmt: skip


def resized(x: Tensor, dims: Mapping[int, int], batch: int) -> Tensor:
    for dim, size in {0: batch, **dims}.items():
        x = x.index_select(dim, torch.arange(size) % x.shape[dim])
    return x


def inputs_of(example: Any, dynamic: Any, part: float, batch: int) -> dict[Any, Tensor]:
    """Inputs at sizes that lie a part of the way between the bounds."""
    named = example if isinstance(example, dict) else dict(enumerate(
        example if isinstance(example, tuple) else (example,)))  # fmt: skip
    bounds = list(dynamic.values())
    found = {}
    for i, (key, x) in enumerate(named.items()):
        dims = {}
        for dim, (low, high, *step) in bounds[i].items():
            sizes = range(low, high + 1, *step)
            dims[dim] = sizes[round(part * (len(sizes) - 1))]
        found[key] = resized(x, dims, batch)
    return found


def call(net: Any, inputs: dict[Any, Any]) -> list[Tensor]:
    named = {key: x for key, x in inputs.items() if isinstance(key, str)}
    result = net(*(x for key, x in inputs.items() if key not in named), **named)
    return [torch.as_tensor(y) for y in tree_leaves(result)]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_one_file_works_for_all_sizes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, example, dynamic = CASES[name]
    model = make().eval()
    saved = save(model, tmp_path / "m.dpz", example, dynamic=dynamic)
    assert saved.change == 0.0
    net, engine = load(tmp_path / "m.dpz"), Engine(tmp_path / "m.dpz", threads=1, tune=False)
    for part, batch in ((0.0, 1), (1.0, 2), (0.2, 17), (0.45, 3), (0.8, 2), (0.0, 2)):
        inputs = inputs_of(example, dynamic, part, batch)
        expected = call(model, inputs)
        for found in (call(net, inputs), call(engine, {k: x.numpy() for k, x in inputs.items()})):
            for y, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(height=st.integers(17, 70), width=st.integers(20, 45), batch=st.integers(1, 9))
@torch.no_grad()
def test_any_size_within_the_bounds(height: int, width: int, batch: int) -> None:
    engine, model = pyramid_engine()
    x = torch.randn(batch, 3, height, width)
    for found, wanted in zip(tree_leaves(engine(x.numpy())), tree_leaves(model(x)), strict=True):
        torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-4, atol=1e-5)


_KEPT: list[Any] = []


def pyramid_engine() -> Any:
    if not _KEPT:
        import io
        import tempfile

        torch.manual_seed(0)
        model = Pyramid().eval()
        with tempfile.TemporaryDirectory() as folder:
            save(model, f"{folder}/m.dpz", torch.randn(2, 3, 32, 32), dynamic={"x": MAPS})
            data = io.BytesIO(Path(f"{folder}/m.dpz").read_bytes())
        _KEPT.append((Engine(data, threads=1, tune=False), model))
    return _KEPT[0]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 71, 32), "input x, dimension 2: size 71 is not within 17 to 70"),
        ((2, 3, 32, 19), "input x, dimension 3: size 19 is not within 20 to 45"),
        ((2, 4, 32, 32), "input x, dimension 1: size 4 must be 3"),
        ((2, 3, 32), "input x must have 4 dimensions"),
    ],
)
def test_other_sizes_are_refused_in_one_line(shape: tuple[int, ...], message: str) -> None:
    engine, _ = pyramid_engine()
    with pytest.raises(ValueError, match=message) as caught:
        engine(np.zeros(shape, np.float32))
    assert "\n" not in str(caught.value)


def test_inputs_with_one_size_must_agree(tmp_path: Path) -> None:
    bounds = {"input_ids": {1: (1, 24)}, "attention_mask": {1: (2, 30)}}
    save(Encoder().eval(), tmp_path / "m.dpz", (IDS, MASK), dynamic=bounds)
    for net in (load(tmp_path / "m.dpz"), Engine(tmp_path / "m.dpz", threads=1)):
        with pytest.raises(
            ValueError, match="input attention_mask, dimension 1: size 8 must be 9"
        ):
            call(net, {0: IDS, 1: MASK[:, :8]})
        with pytest.raises(ValueError, match="size 1 is not within 2 to 24"):
            call(net, {0: IDS[:, :1], 1: MASK[:, :1]})


class Fixed(nn.Module):
    """A network for maps of 32 x 32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 3, 32, 32) * 2


class Changing(nn.Module):
    """A network that does something else for large maps."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1) if x.shape[2] > 40 else F.adaptive_max_pool2d(x, 1)


IMAGE = torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("model", "dynamic", "message"),
    [
        (Fixed(), {"x": MAPS}, "works for one size only: input x, dimension 2 must be 32"),
        (Unet(), {"image": MAPS}, r"steps?.*image\.2: \(20, 68, 4\)"),
        (Changing(), {"x": MAPS}, "sizes up to 40 only"),
        (Encoder(), {"input_ids": {1: (1, 24)}}, "input input_ids, dimension 1 must be 9"),
        (Unet(), {"x": MAPS}, "bounds by dimension for the inputs image"),
        (Unet(), {3: MAPS}, "for the inputs image"),
        (Unet(), {"image": {0: (1, 8)}}, "the batch in dimension 0 always does"),
        (Unet(), {"image": {4: (1, 8)}}, "dimension 4: the dimensions"),
        (Unet(), {"image": {2: (40, 64)}}, "the size 32 of example_inputs is not within 40 to 64"),
        (Unet(), {"image": {2: (64, 16)}}, "1 <= low <= high"),
        (Unet(), {"image": {2: 64}}, r"bounds are \(low, high\)"),
    ],
)
def test_what_cannot_vary_is_named(model: nn.Module, dynamic: Any, message: str) -> None:
    example = (IDS, MASK) if isinstance(model, Encoder) else IMAGE
    with pytest.raises(ValueError, match=message):
        capture(model.eval(), example, dynamic)


def test_loaded_networks_keep_their_sizes(tmp_path: Path) -> None:
    model = Unet().eval()
    dynamic = {"image": {2: (16, 64, 4), 3: (16, 64, 4)}}
    save(model, tmp_path / "a.dpz", IMAGE, dynamic=dynamic)
    net = load(tmp_path / "a.dpz")
    save(net, tmp_path / "b.dpz")  # type: ignore[arg-type]
    assert (tmp_path / "a.dpz").read_bytes() == (tmp_path / "b.dpz").read_bytes()
    engine = Engine(tmp_path / "b.dpz", threads=1, tune=False)
    assert (engine.input_shape, engine.output_shape) == ((3, -1, -1), (2, -1, -1))
    assert "(batch, 3, ?, ?) -> (batch, 2, ?, ?)" in repr(engine)
    x = torch.randn(2, 3, 20, 36)
    again = pickle.loads(pickle.dumps(engine))
    assert np.array_equal(again(x), engine(x))
    with pytest.raises(ValueError, match="fixed already"):
        save(net, tmp_path / "c.dpz", IMAGE, dynamic=dynamic)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs example_inputs"):
        save(model, tmp_path / "c.dpz", dynamic=dynamic)


def test_tuning_is_kept_for_each_size(tmp_path: Path) -> None:
    save(convolutional().eval(), tmp_path / "m.dpz", IMAGE, dynamic={0: MAPS})
    engine = Engine(tmp_path / "m.dpz", threads=1, keep=True)
    outputs = [engine(torch.ones(1, 3, n, 20)) for n in (20, 24)]
    assert sorted(p.name for p in tmp_path.glob("*.json")) == [
        f"m.dpz.{n}x20.tuned.json" for n in (20, 24)
    ]
    again = Engine(tmp_path / "m.dpz", threads=1, keep=True)
    for n, y in zip((20, 24), outputs, strict=True):
        assert np.array_equal(again(torch.ones(1, 3, n, 20)), y)


def test_programs_are_bounded_and_share_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 256, 3), nn.AdaptiveAvgPool2d(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter) < 0.1)
    save(model, tmp_path / "m.dpz", torch.ones(2, 3, 8, 8), dynamic={0: {2: (6, 60)}})
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    for height in range(6, 30):
        engine(np.ones((1, 3, height, 8), np.float32))
    kept = engine._programs._recent
    assert list(kept) == [(height,) for height in range(22, 30)]
    graph = fold(engine._programs._graph.at([(1, 3, 9, 8)]))
    made = (encode(graph), list(graph.tensors.values()), 5_500_000)
    with pytest.raises(ValueError, match="max_bytes"):
        _cpp.Program(*made)
    _cpp.Program(*made, engine._programs.first.program)


# ---- untrusted files


def test_hostile_expressions() -> None:
    sizes = {"x.2": 100}
    deep: Any = "x.2"
    for _ in range(100):
        deep = ["+", deep, 1]
    huge: Any = "x.2"
    for _ in range(20):
        huge = ["*", huge, huge]
    wrong = [
        deep, huge, "y", ["+", 1], ["pow", 2, 3], ["//", 1, ["-", "x.2", 100]], [], {}, None, True,
        ["/", 1, 0], ["%", 5, 0], ["sqrt", -1], ["*", 1e300, 1e300], float("nan"),
        ["+", "x.2", [[]]], [["+"], 1, 2], 10**30,
    ]  # fmt: skip
    for expression in wrong:
        with pytest.raises(ValueError, match="size"):
            evaluate(expression, sizes)


@cache
def dynamic_graph() -> Graph:
    return capture(Pyramid().eval(), IMAGE, {"x": MAPS})


def test_graphs_keep_their_sizes_in_bytes() -> None:
    graph = dynamic_graph()
    again = decode(encode(graph), graph.tensors)
    assert again.dynamic == graph.dynamic
    assert encode(again) == encode(graph)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(ranges=[["x.2", 17, 70, 1]]),
        lambda d: d.update(ranges=[["x.2", 0, 70, 1], ["x.3", 20, 45, 1]]),
        lambda d: d.update(ranges=[["x.2", 17, 1 << 40, 1], ["x.3", 20, 45, 1]]),
        lambda d: d.update(ranges=[["x.2", 17, 70, 1]] * 2),
        lambda d: d.update(ranges=[["x.2", 17, 2**31 - 1, 1], ["x.3", 20, 2**31 - 1, 1]]),
        lambda d: d.update(ranges=7),
        lambda d: d.update(names=[]),
        lambda d: d.update(inputs=[]),
        lambda d: d.update(inputs=[[3, "x.2"]]),
        lambda d: d.update(inputs=[[3, "x.2", "x.2"]]),
        lambda d: d.update(inputs=[[3, ["+", "x.2", 0], "x.3"]]),
        lambda d: d.update(outputs=d["outputs"][:1]),
        lambda d: d.update(outputs=[[[0], [0]]] * 4),
        lambda d: d["attrs"].update({"999": {"size": [1]}}),
        lambda d: d["attrs"].update({"0": {"unknown": 1}}),
        lambda d: d["attrs"].update({"0": {"groups": "y"}}),
        lambda d: d["attrs"].update({"0": {"groups": ["/", "x.2", 2]}}),
        lambda d: d["attrs"].update({"0": {"stride": "x.2"}}),
        lambda d: d["attrs"].update({"0": {"stride": [["*", "x.2", 1 << 40], 1]}}),
        lambda d: d["attrs"].update({"0": {"padding": [1]}}),
        lambda d: d["attrs"].update({"x": {}}),
    ],
)
def test_hostile_sizes_are_refused(change: Callable[[Any], None]) -> None:
    graph = dynamic_graph()
    assert graph.dynamic is not None
    text = graph.dynamic.to_json()
    data = json.loads(text)
    change(data)
    raw = encode(graph)
    new = json.dumps(data).encode()
    head = raw[: -len(text.encode()) - 4]
    with pytest.raises(ValueError, match=r"size|node|attribute|bounds|reach|dimension|signature"):
        decode(head + len(new).to_bytes(4, "little") + new, graph.tensors)


def test_large_sizes_need_memory_that_is_allowed(tmp_path: Path) -> None:
    save(convolutional().eval(), tmp_path / "m.dpz", IMAGE, dynamic={0: {2: (8, 1 << 20)}})
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False, max_bytes=10_000_000)
    assert engine(np.ones((1, 3, 40, 32), np.float32)).shape == (1, 5, 11, 9)
    with pytest.raises(ValueError, match="max_bytes"):
        engine(np.broadcast_to(np.float32(0), (1, 3, 1 << 20, 32)))


@given(st.data())
@settings(max_examples=200)
def test_traced_sizes_compute_what_integers_do(data: st.DataObject) -> None:
    ranges = [SizeRange("a", 3, 40), SizeRange("b", 8, 64, 8)]
    space = SizeSpace(ranges, [5, 16])
    values: list[Any] = list(space.symbols)
    small = st.integers(1, 9)
    for _ in range(data.draw(st.integers(1, 6))):
        x, y = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
        n = data.draw(small)
        made = data.draw(st.sampled_from([x + y, x - n, x * n, x // n, x % n, n - x, -x,
                                          least(x, y), 7 * x // 3]))  # fmt: skip
        values.append(made)
    a, b = data.draw(st.integers(3, 40)), data.draw(st.sampled_from(range(8, 65, 8)))
    row = next(i for i, sample in enumerate(space.samples) if tuple(sample) == (a, b))
    for value in values:
        if not isinstance(value, int):
            assert evaluate(value.expression, {"a": a, "b": b}) == value.values[row]


def test_sizes_of_json_are_those_of_the_graph() -> None:
    graph = dynamic_graph()
    assert graph.dynamic is not None
    again = Dynamic.from_json(graph.dynamic.to_json())
    at = again.at(graph, [64, 44])
    assert at.shape == (-1, 3, 64, 44)
    assert at.dynamic is None
    assert graph.at([(5, 3, 64, 44)]).shape == (-1, 3, 64, 44)


class _OneHot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).scatter(2, x.argmax(2, keepdim=True), 1.0)


def test_an_operator_without_varying_sizes_is_named_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"aten\.scatter\.value: it is supported at fixed sizes only"
    ):
        save(_OneHot(), tmp_path / "m.dpz", torch.randn(2, 3, 8), dynamic={"x": {2: (4, 16)}})


def test_two_sizes_that_differ_are_refused_with_what_to_do() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.avg_pool1d(x, 2) + y

    sizes = {"x": {2: (4, 32, 2)}, "y": {2: (2, 16)}}
    with pytest.raises(ValueError, match="reshape an input so that both sizes are the same"):
        capture(Halves(), (torch.randn(2, 3, 8), torch.randn(2, 3, 4)), dynamic=sizes)


class _OddOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.shape[2] & 1)


def test_an_unknown_function_of_sizes_is_named() -> None:
    with pytest.raises(ValueError, match=r"and_: it computes .*bitwise_and.* from sizes"):
        capture(_OddOnly(), torch.randn(2, 3, 8), {"x": {2: (4, 16)}})
