"""Networks as people write them, through file and engine, against the module in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.deploy import Engine, GraphNet, capture, load, save, shrink


class Written(nn.Module):
    """A forward function with submodules and parameters."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def attention(m: Any, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    q, k, v = m.qkv(x).reshape(batch, length, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).flatten(2)


def windows(m: Any, x: Tensor) -> Tensor:
    x = x.roll((1, -2), (1, 2)).view(-1, 2, 4, 2, 4, 3).permute(0, 1, 3, 2, 4, 5)
    y = m.linear(x.reshape(-1, 16, 3)).softmax(1)
    y = y.view(-1, 2, 2, 4, 4, 3).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(-1, 8, 8, 3)


def convolved_windows(m: Any, x: Tensor) -> Tensor:
    y = x.view(-1, 4, 2, 6, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4, 6, 4)
    y = m.bn(m.conv(y)).relu()
    return y.view(-1, 2, 3, 6, 3, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 6, 6, 6)


def tokens(m: Any, x: Tensor) -> Tensor:
    return torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.position


def functions(m: Any, x: Tensor) -> Tensor:
    y = x.abs() + 1
    return (x.exp() + y.log() + y.sqrt() + y.rsqrt() + F.mish(x) + F.selu(x) + F.softplus(x)
            + x.pow(3) + x.clamp(-1, 1) + F.hardtanh(x) + F.logsigmoid(x) + x // 2 + x % 2
            + torch.where(x > 0.5, x, -x) + x.masked_fill((x > 1) | ~(x > -1), 0.0)
            + F.log_softmax(x, 1) + F.normalize(x))  # fmt: skip


def more_functions(m: Any, x: Tensor) -> Tensor:
    y = x.abs() + 0.5
    spread, mean = torch.var_mean(x, 2, keepdim=True)
    return (F.softplus(x, 3.0, 1.0) + torch.fmod(x, 2) + torch.remainder(2.0, y) + x.exp2()
            + torch.where(x.isnan(), 0.0, x) + y.log2() + y.log10() + torch.hypot(x, y)
            + spread + mean + torch.std_mean(x, 2, keepdim=True)[0])  # fmt: skip


def reductions(m: Any, x: Tensor) -> Tensor:
    return (x.sum(1) + x.amax(1) + x.var(1) + x.std(1, unbiased=False) + x.norm(dim=1)
            + x.max(1)[0] + x.cumsum(2)[:, 0] + x.argmax(1) + x.logsumexp(1))  # fmt: skip


def padding(m: Any, x: Tensor) -> Tensor:
    modes = ("reflect", "replicate", "circular", "constant")
    y = sum(F.pad(x, (1, 2, 1, 0), mode=mode) for mode in modes)
    return F.pad(y, (-1, 0, 0, 1, 1, 2))


def resampling(m: Any, x: Tensor) -> Tensor:
    return (F.interpolate(x, (7, 9), mode="bicubic")
            + F.interpolate(x, (7, 9), mode="nearest-exact")
            + F.interpolate(x, scale_factor=1.9)[:, :, :7, :9]
            + F.interpolate(x, scale_factor=1.9, mode="bilinear")[:, :, :7, :9])  # fmt: skip


def volumes(m: Any, x: Tensor) -> Tensor:
    y = m.bn(m.conv(x)).relu()
    return F.avg_pool3d(m.grouped(y), 2, 1, 1) + F.avg_pool3d(
        m.grouped(y), 2, 1, 1, count_include_pad=False
    )


def pooled_volumes(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool3d(x, (2, 3, 2), (1, 2, 2), (0, 1, 1), ceil_mode=True)
    z = F.interpolate(y, (5, 4, 6)) + F.interpolate(y, (5, 4, 6), mode="trilinear")
    return F.adaptive_avg_pool3d(z, (2, 3, 4)) + F.adaptive_max_pool3d(z, (2, 3, 4))


def sorting(m: Any, x: Tensor) -> Tensor:
    values, places = x.topk(2, 1)
    smallest = x.topk(2, 1, largest=False)[0]
    middle = x.median(2, keepdim=True)
    return (values + places + smallest + x.sort(2, descending=True)[0][:, :2]
            + x.argsort(-1)[:, :2] + middle[0][:, :2] + middle[1][:, :2])  # fmt: skip


def distances(m: Any, x: Tensor) -> Tensor:
    return sum(torch.cdist(x, m.centres, p) for p in (0.5, 1.0, 2.0, float("inf")))  # type: ignore[return-value]


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (lambda: Written(attention, qkv=nn.Linear(16, 48)), (7, 16)),
    "sequence first": (
        lambda: Written(lambda m, x: m.a(*[x.transpose(0, 1)] * 3)[0],
                        a=nn.MultiheadAttention(8, 2)),
        (5, 8),
    ),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (7, 16)),
    "windows": (lambda: Written(windows, linear=nn.Linear(3, 3)), (8, 8, 3)),
    "convolved windows": (
        lambda: Written(convolved_windows, bn=nn.BatchNorm2d(6),
                        conv=nn.Conv2d(4, 6, (3, 5), 2, padding=(1, 2), groups=2)),
        (4, 12, 12),
    ),
    "tokens": (
        lambda: Written(tokens, token=nn.Parameter(torch.randn(1, 1, 6)),
                        position=nn.Parameter(torch.randn(1, 5, 6))),
        (4, 6),
    ),
    "functions": (lambda: Written(functions), (4, 5)),
    "reductions": (lambda: Written(reductions), (3, 4, 5)),
    "lstm": (
        lambda: Written(lambda m, x: m.r(x)[0],
                        r=nn.LSTM(6, 4, batch_first=True, bidirectional=True)),
        (3, 6),
    ),
    "gru": (lambda: Written(lambda m, x: m.r(x)[1], r=nn.GRU(6, 4, batch_first=True)), (3, 6)),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2),
                              nn.ConvTranspose2d(4, 3, 2, 2)),
        (6, 5, 7),
    ),
    "transposed sequence": (lambda: nn.ConvTranspose1d(6, 4, 4, 2, 1), (6, 7)),
    "sequence": (
        lambda: nn.Sequential(nn.Conv1d(6, 4, 3, padding="same", dilation=2), nn.MaxPool1d(2),
                              nn.Conv1d(4, 4, 2, groups=2), nn.AdaptiveAvgPool1d(1)),
        (6, 9),
    ),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.InstanceNorm2d(6)), (6, 4, 4)),
    "prelu": (lambda: nn.PReLU(6), (6, 4, 4)),
    "padding": (lambda: Written(padding), (3, 5, 6)),
    "resampling": (lambda: Written(resampling), (3, 5, 5)),
    "pixel shuffle": (
        lambda: nn.Sequential(nn.PixelShuffle(2), nn.ChannelShuffle(2)), (8, 5, 5)
    ),
    "volumes": (
        lambda: Written(volumes, conv=nn.Conv3d(4, 6, 3, (1, 2, 1), (1, 0, 1), (2, 1, 1)),
                        bn=nn.BatchNorm3d(6), grouped=nn.Conv3d(6, 4, 2, groups=2)),
        (4, 6, 9, 6),
    ),
    "pooled volumes": (lambda: Written(pooled_volumes), (3, 4, 5, 6)),
    "sorting": (lambda: Written(sorting), (4, 5)),
    "distances": (lambda: Written(distances, centres=nn.Parameter(torch.randn(6, 3))), (5, 3)),
    "bilinear": (
        lambda: Written(lambda m, x: m.f(x[..., :3], x[..., 3:]), f=nn.Bilinear(3, 2, 4)), (6, 5)
    ),
    "resampled sequence": (
        lambda: Written(lambda m, x: F.interpolate(x, 7) + F.interpolate(x, 7, mode="linear")),
        (3, 5),
    ),
    "batch norm of every token": (
        lambda: Written(lambda m, x: m.bn(x.flatten(0, 1)).reshape_as(x), bn=nn.BatchNorm1d(4)),
        (3, 4),
    ),
    "more functions": (lambda: Written(more_functions), (4, 5)),
    "einsum": (lambda: Written(lambda m, x: torch.einsum("bij,kj->bik", x, m.w),
                               w=nn.Parameter(torch.randn(5, 4))), (3, 4)),
}  # fmt: skip


def made(
    case: tuple[Callable[[], nn.Module], tuple[int, ...]], batch: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, two samples as its example, and a batch."""
    torch.manual_seed(0)
    make, shape = case
    return make().eval(), torch.randn(2, *shape), torch.randn(batch, *shape)


@torch.no_grad()
def outputs(
    model: nn.Module, example: Tensor, x: Tensor, file: Path
) -> tuple[Tensor, Tensor, GraphNet]:
    """What a network returns, what the engine returns from a file of it, and the captured network.

    Capturing takes longest, so it is done once.
    """
    net = GraphNet(capture(model, example))
    save(net, file)
    expected = model(x)
    found = torch.from_numpy(Engine(file, threads=1, tune=False)(x.numpy()))
    assert found.shape == expected.shape
    return expected, found, net


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_networks_as_people_write_them(name: str, tmp_path: Path) -> None:
    model, example, x = made(CASES[name], batch=9)
    expected, found, net = outputs(model, example, x, tmp_path / "m.dpz")
    tolerance = 1e-5 * float(expected.abs().max())
    assert float((found - expected).abs().max()) <= tolerance
    assert float((shrink(net, example)(x) - expected).abs().max()) <= tolerance


class Text(nn.Module):
    """Integers and booleans in, by keyword; a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: int = 2) -> dict[str, Any]:
        x = self.words(ids) * scale
        if mask is not None:
            x = x * mask[..., None]
        logits = self.head(x.mean(1))
        return {"logits": logits, "more": (logits.argmax(-1), x.transpose(0, 1), None)}


@torch.no_grad()
def test_several_inputs_and_outputs_keep_their_names_and_kinds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Text().eval()
    ids, mask = torch.randint(20, (5, 4)), torch.rand(5, 4) > 0.5
    save(model, tmp_path / "m.dpz", {"ids": ids[:1], "mask": mask[:1]})
    expected = model(ids, mask=mask)
    engine, net = Engine(tmp_path / "m.dpz", threads=1, tune=False), load(tmp_path / "m.dpz")
    assert isinstance(net, GraphNet)
    for found in (engine(ids.numpy(), mask=mask.numpy()), net(ids=ids, mask=mask)):
        assert list(found) == ["logits", "more"]
        places, states, nothing = found["more"]
        assert nothing is None
        torch.testing.assert_close(torch.as_tensor(found["logits"]), expected["logits"])
        torch.testing.assert_close(torch.as_tensor(states), expected["more"][1])
        assert torch.equal(torch.as_tensor(places), expected["more"][0])
    with pytest.raises(TypeError, match="needs mask"):
        engine(ids.numpy())
    with pytest.raises(TypeError, match="not words"):
        engine(ids.numpy(), words=1)
    small = shrink(model, {"ids": ids, "mask": mask})
    torch.testing.assert_close(small(ids, mask)["logits"], expected["logits"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_precisions_become_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval().to(dtype)
    x = torch.randn(1, 3, 6, 6)
    net = GraphNet(capture(model, x.to(memory_format=torch.channels_last)))
    assert net.get_parameter("0.weight").dtype == torch.float32
    torch.testing.assert_close(net(x), model.float()(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_autocast_blocks_become_float32(caplog: pytest.LogCaptureFixture) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = self.first(x).relu()
            return self.last(h.float())

    model, x = Mixed().eval(), torch.randn(5, 4)
    model.first.weight[1], model.first.bias[1] = 0, 0
    small = shrink(model, x[:1])
    assert "what the network computes in bfloat16 is computed in float32" in caplog.text
    assert {name: tuple(p.shape) for name, p in small.named_parameters()} == {
        "first.weight": (5, 4), "first.bias": (5,), "last.weight": (3, 5), "last.bias": (3,),
    }  # fmt: skip
    exact = model.last(model.first(x).relu())
    torch.testing.assert_close(small(x), exact)
    assert (model(x) - exact).abs().max() > 1e-5  # bfloat16 rounds visibly


class Hashed(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.rows, self.size = nn.Embedding(size, 2), size

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows(ids * 31 % self.size)


def test_integers_that_float32_rounds_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = torch.tensor([[3, 2**24 + 1]])
    with pytest.raises(ValueError, match="such as 16777217, which float32 rounds"):
        capture(Hashed(64), large)
    with pytest.raises(ValueError, match="such as 260047871, which float32 rounds"):
        capture(Hashed(64), large // 2 + 33)
    capture(Hashed(2), large * 0 + 2**24 - 30)  # only a product is rounded, and to an even number
    assert "integers beyond 16,777,216 are rounded to float32" in caplog.text
    save(Hashed(64), tmp_path / "m.dpz", large % 9)
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    with pytest.raises(ValueError, match="rounds the integer 16777217 of the input"):
        engine(large.numpy())
    assert engine(large.numpy() // 2**24).shape == (1, 2, 2)


def test_frozen_parameters_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    small = shrink(model, torch.ones(1, 3))
    trained = {name for name, p in small.named_parameters() if p.requires_grad}
    assert trained == {"1.weight", "1.bias"}


def test_hooks_that_watch_see_no_fake_tensors() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    seen: list[Any] = []
    watch = model[1].register_forward_hook(lambda m, i, o: seen.append(o))
    model[0].register_forward_hook(lambda m, i, o: 2 * o)  # this one is part of the network
    x = torch.randn(2, 3)
    net = GraphNet(capture(model, x))
    assert {type(o) for o in seen} == {Tensor}
    assert len(model[1]._forward_hooks) == 1
    watch.remove()
    torch.testing.assert_close(net(x), model(x))


def test_hooks_whose_results_the_network_reads_are_kept() -> None:
    model = Written(_head_of_features, body=nn.Linear(3, 4), head=nn.Linear(4, 2), seen={}).eval()
    model.body.register_forward_hook(lambda m, i, o: model.seen.update(last=o))
    x = torch.randn(5, 3)
    torch.testing.assert_close(GraphNet(capture(model, x[:2]))(x), model(x))


def _head_of_features(m: Any, x: Tensor) -> Tensor:
    m.body(x)
    return m.head(m.seen["last"])  # type: ignore[no-any-return]


def test_a_cumulative_batch_norm_continues_counting() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=None))
    for _ in range(3):
        model(torch.randn(8, 4))
    net, x = GraphNet(capture(model, torch.randn(2, 4))).train(), torch.randn(8, 4) + 3
    model.train()(x), net(x)
    torch.testing.assert_close(net.get_buffer("1.running_mean"), model[1].running_mean)


@pytest.mark.parametrize("name", ["graph", "report", "run", "_plan", "_nodes"])
def test_submodules_may_have_any_name(name: str, tmp_path: Path) -> None:
    model = nn.Sequential()
    model._modules[name] = nn.Linear(3, 2)
    x = torch.randn(2, 3)
    save(model, tmp_path / "m.dpz", x)
    assert set(load(tmp_path / "m.dpz").state_dict()) == {f"{name}.weight", f"{name}.bias"}
    torch.testing.assert_close(shrink(model, x)(x), model(x))
