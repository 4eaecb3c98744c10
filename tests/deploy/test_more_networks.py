"""More networks as people write them: their own filters, bags, joined batches, unpooling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deploy.test_coverage import Written, made, outputs
from dirprune.deploy import Engine, capture, save, shrink


def own_filters(m: Any, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    style = m.style(x.mean((2, 3)))
    weight = m.weight * style.view(batch, 1, channels, 1, 1)
    joined = x.reshape(1, batch * channels, height, width)
    flat, bias = weight.view(batch * 6, 4, 3, 2), style.repeat_interleave(2, 1)[:, :6].reshape(-1)
    y = F.conv2d(joined, flat, bias, stride=(2, 1), padding=(1, 0), dilation=2, groups=batch)
    narrow = weight[:, :4, :1].reshape(batch * 4, 1, 3, 2)
    z = F.conv2d(joined, narrow, groups=batch * channels)
    wide = weight.transpose(1, 2).reshape(batch * 4, 6, 3, 2)
    t = F.conv_transpose2d(joined, wide, stride=2, padding=1, output_padding=1, groups=batch)
    row = F.conv1d(joined[:, :, 0], flat[:, :, 0], padding=1, groups=batch)
    return torch.cat([part.reshape(batch, -1) for part in (y, z, t, row)], 1)


def unpooled(m: Any, x: Tensor) -> Tensor:
    y, places = F.max_pool2d(x, 2, return_indices=True)
    z, overlapping = F.max_pool2d(x, 3, 2, 1, 1, True, return_indices=True)
    maps = [F.max_unpool2d(y.tanh(), places, 2, output_size=x.shape[2:]), places, overlapping, z]
    return torch.cat([part.flatten(1) for part in maps], 1)


def bags(m: Any, x: Tensor) -> Tensor:
    words = (x * 3).long().clamp(0, 8)
    parts = [m.mean(words), m.sum(words), m.largest(words), m.sum(words, per_sample_weights=x)]
    return torch.cat([*parts, m.single(words[:, :1])], 1)


def scattered(m: Any, x: Tensor) -> Tensor:
    places, start = (x > 0).long(), x[:, :, :3].exp()
    return torch.cat([start.scatter_reduce(2, places, x, how, include_self=own)
                      for how in ("sum", "prod", "mean", "amax", "amin")
                      for own in (True, False)], 2)  # fmt: skip


def joined_batches(m: Any, x: Tensor) -> Tensor:
    batch = x.shape[0]
    both = torch.cat([x, x.flip(3), -x], 0)
    y = F.max_pool2d(m.bn(m.conv(both)).relu(), 2)
    first, second, third = torch.split(y, batch, dim=0)
    more = torch.cat([y[:batch], y[2 * batch :]], 0).chunk(2, 0)
    return torch.cat([first - second, third * more[0], more[1]], 1)


def heads_in_the_batch(m: Any, x: Tensor) -> Tensor:
    q, k, v = (torch.cat(part.chunk(2, -1), 0) for part in m.qkv(x).chunk(3, -1))
    return torch.cat((q @ k.transpose(1, 2)).softmax(-1).matmul(v).chunk(2, 0), -1)


def extremes(m: Any, x: Tensor) -> Tensor:
    return torch.max(x, -x) + torch.min(x, x.sin()) + torch.max(x, m.floor)


def logic(m: Any, x: Tensor) -> Tensor:
    whole, true = (3 * x).long(), x > 0
    parts = [torch.logical_and(whole, x), torch.logical_or(whole, true), true & (x < 1), ~true,
             torch.logical_xor(whole, whole + 1), true ^ (x < 1), ~whole]  # fmt: skip
    return torch.cat([part.float() for part in parts], 1)


def three_in_one_product(m: Any, x: Tensor) -> Tensor:
    return torch.einsum("bi,bj,ij->bij", x, x.sin(), m.weight)


def likelihood(m: Any, x: Tensor) -> Tensor:
    mean, spread = m.place(x).chunk(2, -1)
    policy = torch.distributions.Normal(mean, spread.exp())
    choice = torch.distributions.Categorical(logits=mean)
    return torch.cat([policy.log_prob(x[:, :3]), policy.entropy(), choice.probs], 1)


def volumes(m: Any, x: Tensor) -> Tensor:
    return F.avg_pool3d(x, (2, 1, 2), padding=(1, 0, 1), divisor_override=3)


def large_windows(m: Any, x: Tensor) -> Tensor:
    parts = [F.avg_pool2d(x, 99, ceil_mode=True),
             F.max_pool2d(x, (2, 50), (2, 60), ceil_mode=True),
             F.avg_pool2d(x, (7, 9), 20, (3, 4), ceil_mode=True, count_include_pad=False),
             F.avg_pool2d(x, 12, 20, 2, ceil_mode=True)]  # fmt: skip
    return torch.cat([part.flatten(1) for part in parts], 1)


def decimals(m: Any, x: Tensor) -> Tensor:
    return torch.cat([x.round(decimals=1), (99 * x).round(decimals=-1), x.round(decimals=0)], 1)


def complex_codes(m: Any, x: Tensor) -> Tensor:
    steps = torch.arange(x.shape[1])[:, None] * m.steps
    pairs = torch.view_as_complex(x.reshape(*x.shape[:2], 2, 3, 2))
    y = pairs * torch.polar(torch.ones_like(steps), steps).view(1, x.shape[1], 1, 3)
    angles = torch.polar(x[..., :3].exp(), x[..., 3:6]).unsqueeze(2)
    z = y * angles * 0.5 * torch.complex(x[..., :1, None], x[..., 1:2, None])
    return torch.cat([torch.view_as_real(z).flatten(2), z.real.flatten(2), y.imag.flatten(2)], 2)


def merged_volumes(m: Any, x: Tensor) -> Tensor:
    y = x.reshape(x.shape[0] * 3, 2, 3, 4, 5)
    parts = [m.whole(y), m.each(y)]
    return torch.cat([part.reshape(x.shape[0], -1) for part in parts], 1)


def decoder(m: Any, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return m.layers(x, x.flip(1), tgt_mask=mask, memory_key_padding_mask=x[..., 0] > 1)


def rows_of_samples(m: Any, x: Tensor) -> Tensor:
    near = torch.einsum("bind,jnd->bnij", x, m.table)
    far = torch.einsum("nbd,nde->bne", x[:, 0].transpose(0, 1), m.table.permute(1, 2, 0))
    left = torch.matmul(m.table.transpose(0, 1), x[:, 0].permute(1, 2, 0))
    return torch.cat([near.flatten(1), far.flatten(1), left.permute(2, 0, 1).flatten(1)], 1)


def nearest(m: Any, x: Tensor) -> Tensor:
    places = torch.arange(6).view(1, 1, 6).repeat(x.shape[0], 3, 1)
    places[torch.cdist(x[:, :3], x) > 1.5] = 6
    places = places.sort(-1)[0][:, :, :4]
    first = places[:, :, :1].repeat(1, 1, 4)
    absent = places == 6
    places[absent] = first[absent]
    batch = torch.arange(x.shape[0]).view(-1, 1, 1).repeat(1, 3, 4)
    return torch.cat([x[batch, places], x[batch, places][:, :, :0]], 2)


def merged_maps(m: Any, x: Tensor) -> Tensor:
    maps = m.maps(x.flatten(0, 1))
    rows = m.rows(x[:, :, :, 0].reshape(-1, 4, 7))
    return torch.cat([part.reshape(x.shape[0], -1) for part in (maps, rows)], 1)


def composites(m: Any, x: Tensor) -> Tensor:
    largest = x.argmax(2, keepdim=True)
    parts = [x.movedim(1, 2), x.adjoint(), torch.atleast_3d(x), x.take_along_dim(largest, 2),
             x[:, m.mask] * 2, x.repeat_interleave(m.counts, dim=1), torch.empty_like(x).fill_(2),
             torch.empty(x.shape[0], 3).copy_(x[:, 0, :3]), x.signbit().float()]  # fmt: skip
    return torch.cat([part.flatten(1) for part in parts], 1)


def whole_numbers(m: Any, x: Tensor) -> Tensor:
    whole = (3 * x).long()
    parts = [whole << 2, whole >> 1, whole.any(1), whole.all(1), whole.flatten(1).any(1)[:, None]]
    return torch.cat([part.flatten(1).float() for part in parts], 1)


def neighbours(m: Any, x: Tensor) -> Tensor:
    batch, size, width = x.shape
    places = (-torch.cdist(x, x)).topk(3, 2)[1]
    flat = (places + torch.arange(0, batch).view(-1, 1, 1) * size).view(-1)
    rows, first = x.view(batch * size, -1), torch.arange(0, batch * size, size) + places[:, 0, 1]
    far = rows.gather(0, flat[:, None].expand(-1, width)).view(batch, size, 3, width)
    parts = [rows[flat, :].view(batch, size, 3, width) - far.flip(2),
             rows.index_select(0, first), F.embedding(first, rows), rows[:, 0][flat]]  # fmt: skip
    return torch.cat([part.reshape(batch, -1) for part in parts], 1)


class Lengths(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(len(x), len(x[0]) * len(x[0, 0]))
        return sum(x[:, i] for i in range(len(x[0]))) * len(x) + flat[:, : x.shape[2]]


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "own filters": (
        lambda: Written(own_filters, style=nn.Linear(4, 4),
                        weight=nn.Parameter(torch.randn(1, 6, 4, 3, 2))),
        (4, 7, 6),
    ),
    "unpooled": (lambda: Written(unpooled), (3, 7, 9)),
    "bags": (
        lambda: Written(bags, mean=nn.EmbeddingBag(9, 4, mode="mean", padding_idx=1),
                        sum=nn.EmbeddingBag(9, 4, mode="sum"), single=nn.EmbeddingBag(9, 4),
                        largest=nn.EmbeddingBag(9, 4, mode="max", padding_idx=0)),
        (5,),
    ),
    "scattered": (lambda: Written(scattered), (2, 5)),
    "joined batches": (
        lambda: Written(joined_batches, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)), (3, 6, 7)
    ),
    "heads in the batch": (lambda: Written(heads_in_the_batch, qkv=nn.Linear(4, 12)), (5, 4)),
    "extremes": (lambda: Written(extremes, floor=nn.Parameter(torch.tensor(0.2))), (6,)),
    "logic": (lambda: Written(logic), (12,)),
    "three in one product": (
        lambda: Written(three_in_one_product, weight=nn.Parameter(torch.randn(4, 4))), (4,)
    ),
    "decoder": (
        lambda: Written(decoder, layers=nn.TransformerDecoder(
            nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 1)),
        (5, 4),
    ),
    "rows of samples": (
        lambda: Written(rows_of_samples, table=nn.Parameter(torch.randn(6, 3, 4))), (5, 3, 4)
    ),
    "nearest": (lambda: Written(nearest), (6, 2)),
    "merged maps": (
        lambda: Written(
            merged_maps,
            maps=nn.Sequential(nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=2), nn.GroupNorm(2, 4),
                               nn.Upsample(scale_factor=2), nn.InstanceNorm2d(4), nn.AvgPool2d(4)),
            rows=nn.Sequential(nn.Conv1d(4, 6, 3, padding=1, groups=2), nn.BatchNorm1d(6),
                               nn.ConvTranspose1d(6, 4, 4, 2, 3, 1, dilation=2, groups=2)),
        ),
        (3, 4, 5, 7),
    ),
    "composites": (
        lambda: Written(composites, mask=nn.Buffer(torch.tensor([True, False, True, True])),
                        counts=nn.Buffer(torch.tensor([1, 2, 0, 3]))),
        (4, 5),
    ),
    "neighbours": (lambda: Written(neighbours), (6, 4)),
    "lengths": (Lengths, (3, 4)),
    "norms across maps": (
        lambda: nn.Sequential(nn.CrossMapLRN2d(3, 0.1, 0.6, 2), nn.CrossMapLRN2d(4)), (7, 2, 3)
    ),
    "whole numbers": (lambda: Written(whole_numbers), (3, 4)),
    "likelihood": (lambda: Written(likelihood, place=nn.Linear(4, 6)), (4,)),
    "large windows": (lambda: Written(large_windows), (2, 6, 7)),
    "decimals": (lambda: Written(decimals), (5,)),
    "complex codes": (
        lambda: Written(complex_codes, steps=nn.Buffer(torch.tensor([1.0, 0.1, 0.01]))), (4, 12)
    ),
    "merged volumes": (
        lambda: Written(merged_volumes, whole=nn.Conv3d(2, 3, 2, bias=False),
                        each=nn.Conv3d(2, 4, 3, (1, 2, 1), 1, groups=2)), (3, 2, 3, 4, 5)
    ),
    "volumes": (lambda: Written(volumes), (2, 4, 3, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_networks(name: str, tmp_path: Path) -> None:
    model, example, x = made(CASES[name], batch=7)
    expected, found, net = outputs(model, example, x, tmp_path / "m.dpz")
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shrink(net, example)(x), expected.float(), rtol=1e-4, atol=1e-5)


def whole_windows(m: Any, x: Tensor) -> Tensor:
    width = x.shape[3]
    columns = torch.linspace(-1, 1, width)
    mean, row = F.avg_pool2d(x, x.shape[2:]), F.max_pool1d(x[:, 0], width)
    return mean.flatten(1) + row.sum(1) + (x * columns).sum((2, 3)) + torch.linspace(0, 1, 5).sum()


def mirrored(m: Any, x: Tensor) -> Tensor:
    modes = ("reflect", "replicate", "circular")
    return torch.cat([F.pad(x, (2, 1, 0, 3), mode=mode) for mode in modes], 1)


def rotated(m: Any, x: Tensor) -> Tensor:
    places = torch.arange(x.shape[2])[None]
    table = (m.steps[None, :, None].expand(places.shape[0], -1, 1) @ places[:, None].float()).cos()
    return (x.transpose(2, 3) @ (table.transpose(1, 2) @ table)).transpose(2, 3) + x[:, :, [-1]]


def places_of_sizes(m: Any, x: Tensor) -> Tensor:
    rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])
    parts = [x.flip(2, 3), x.unfold(3, 3, 2), x.diagonal(1, 2, 3), x.diagonal(-1, 2, 3),
             x[:, :, rows - torch.arange(3)], x[:, :, rows % 3, columns - 2]]  # fmt: skip
    return torch.cat([part.flatten(1) for part in parts], 1)


def numbered_regions(m: Any, x: Tensor) -> Tensor:
    regions, cuts = torch.zeros(1, *x.shape[2:]), (slice(0, -2), slice(-2, -1), slice(-1, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            regions[:, rows, columns] = 3 * i + j
    return x + regions


class Sized(Written):
    """A forward function of one map."""

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@pytest.mark.parametrize(
    "function", [whole_windows, mirrored, rotated, places_of_sizes, numbered_regions]
)
@torch.no_grad()
def test_sizes_may_vary(function: Callable[..., Any], tmp_path: Path) -> None:
    model = Sized(function, steps=nn.Buffer(torch.tensor([0.1, 0.7]))).eval()
    sizes = {"x": {2: (4, 20), 3: (4, 20)}}
    save(model, tmp_path / "m.dpz", torch.randn(2, 3, 6, 8), dynamic=sizes)
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    for height, width in ((4, 20), (9, 5), (6, 8)):
        x = torch.randn(3, 3, height, width)
        np.testing.assert_allclose(engine(x.numpy()), model(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_decoder_of_two_inputs_whose_lengths_vary(tmp_path: Path) -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(4, 2, 8, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Any:
            return self.layer(x, memory)

    model = Decoder().eval()
    sizes = {"x": {1: (2, 9)}, "memory": {1: (2, 9)}}
    save(model, tmp_path / "m.dpz", (torch.randn(2, 5, 4), torch.randn(2, 6, 4)), dynamic=sizes)
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    x, memory = torch.randn(3, 8, 4), torch.randn(3, 2, 4)
    found = engine(x.numpy(), memory.numpy())
    np.testing.assert_allclose(found, model(x, memory), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_maps_of_two_inputs_are_equal_where_they_must_be(tmp_path: Path) -> None:
    class Costs(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Any:
            height, wide = a.shape[2], F.pad(b, (0, 0, 1, 1))
            return [(a * wide[:, :, i : i + height]).mean(1) for i in range(3)]

    model, sizes = Costs().eval(), {name: {2: (4, 20)} for name in "ab"}
    save(model, tmp_path / "m.dpz", (torch.randn(2, 3, 6, 5),) * 2, dynamic=sizes)
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    a, b = torch.randn(2, 3, 3, 19, 5)
    for found, expected in zip(engine(a.numpy(), b.numpy()), model(a, b)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="must"):
        engine(a.numpy(), b[:, :, :9].numpy())


@torch.no_grad()
def test_single_numbers_may_be_returned(tmp_path: Path) -> None:
    model = Sized(lambda m, x: (x * 2, m.weight.sum(), x.shape[2] * torch.ones(()),
                                torch.tensor(x.shape[2])),
                  weight=nn.Parameter(torch.randn(3)))  # fmt: skip
    x = torch.randn(3, 2, 7)
    save(model, tmp_path / "m.dpz", torch.randn(2, 2, 5), dynamic={"x": {2: (4, 20)}})
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    for found, expected in zip(engine(x.numpy()), model(x), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@torch.no_grad()
def test_a_step_of_a_decoder_whose_past_varies(tmp_path: Path) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.qkv = nn.Embedding(12, 4), nn.Linear(4, 12)

        def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Any:
            place = self.places(torch.tensor(keys.shape[1]))
            query, key, value = self.qkv(x + place)[:, None].chunk(3, -1)
            keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
            return F.scaled_dot_product_attention(query, keys, values), (keys, values)

    model, x, past = Step().eval(), torch.randn(3, 4), torch.randn(2, 3, 9, 4)
    sizes = {"keys": {1: (1, 11)}, "values": {1: (1, 11)}}
    save(model, tmp_path / "m.dpz", (x, past[0, :, :5], past[1, :, :5]), dynamic=sizes)
    engine = Engine(tmp_path / "m.dpz", threads=1, tune=False)
    for size in (1, 9):
        found = engine(x.numpy(), *past[:, :, :size].numpy())
        for own, expected in zip(tree_leaves(found), tree_leaves(model(x, *past[:, :, :size]))):
            np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


def test_of_equal_elements_the_first_ones_are_the_largest() -> None:
    model = Written(lambda m, x: x.relu().topk(9, 1)[1])
    found = capture(model, -torch.ones(2, 40))
    assert [node.op for node in found.nodes] == ["relu", "argsort", "slice"]
    viewed = Written(lambda m, x: x.topk(3)[0].view(-1, 6))  # needs what torch.topk returns
    assert capture(viewed, torch.rand(2, 2, 9)).nodes[-1].shape == (-1, 6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: nn.utils.rnn.pack_padded_sequence(x[..., None], m.lengths, True).data,
         "it packs sequences: pass the padded ones"),
        (lambda m, x: F.max_unpool1d(x[:, None, :3], x[:, None, :3].long(), 2),
         "indices of a max pooling"),
        (lambda m, x: x[x > 0], "select with torch.where"),
        (lambda m, x: x[x > 0].view(x.shape[0], -1).sum(1), "select with torch.where"),
        (lambda m, x: m.layer.to(x.dtype)(x), r"forward converts a layer in test_more_networks"),
        (lambda m, x: -x if x.sum() > 0 else x, r"in test_more_networks.py, line \d+, for"),
        (lambda m, x: x.masked_scatter(x > 0, -x), "the samples before it: use torch.where"),
        (lambda m, x: F.embedding_bag(x.long().reshape(-1), m.table, m.starts), "row per sample"),
    ],
)  # fmt: skip
def test_refusals_say_what_to_do(
    function: Callable[..., Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Written(function, table=nn.Parameter(torch.ones(9, 2)), layer=nn.Linear(4, 4),
                    lengths=nn.Buffer(torch.tensor([3, 2])),
                    starts=nn.Buffer(torch.tensor([0, 3])))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        capture(model, torch.ones(2, 4))
    assert not capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_script_module_is_refused() -> None:
    traced = torch.jit.trace(nn.Linear(3, 2).eval(), torch.ones(1, 3))
    with pytest.raises(ValueError, match="has no Python code to capture"):
        capture(traced, torch.ones(1, 3))


@torch.no_grad()
def test_numbers_of_the_code_may_be_infinite_or_missing(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(4, 3), Written(lambda m, x: torch.where(x > 9, float("nan"), x))
    )
    small = shrink(model, torch.zeros(1, 4))
    x = torch.randn(5, 4)
    torch.testing.assert_close(small(x), model(x))
    model[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        shrink(model, x)


@torch.no_grad()
def test_an_outer_product_is_cut_as_a_whole() -> None:
    torch.manual_seed(0)
    model = Written(lambda m, x: m.outer(m.first(x).tanh()), first=nn.Linear(6, 2),
                    outer=Written(_branches, leaf=nn.Parameter(torch.randn(4, 3))))  # fmt: skip
    model.outer.leaf[1:] = 0
    x = torch.randn(5, 6)
    torch.testing.assert_close(shrink(model, x)(x), model(x))


def _branches(m: Any, p: Tensor) -> Tensor:
    both = torch.stack([p, 1 - p], -1)
    return (both[:, 0, :, None] * both[:, 1, None, :]).flatten(1) @ m.leaf
