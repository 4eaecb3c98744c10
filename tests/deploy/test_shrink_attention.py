"""Heads, and widths of heads, that have no effect are removed from attention."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.deploy import channel_blocks, shrink


class Attention(nn.Module):
    """Attention with separate or joined projections, as transformers and timm write it."""

    def __init__(self, width: int = 24, heads: int = 4, joined: bool = False) -> None:
        super().__init__()
        self.heads, self.joined = heads, joined
        if joined:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        if self.joined:
            sizes = (batch, length, 3, self.heads, -1)
            q, k, v = self.qkv(x).reshape(sizes).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            sizes = (batch, length, self.heads, -1)
            q, k, v = (f(x).view(sizes).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return x + self.out(y.transpose(1, 2).reshape(batch, length, width))


X = torch.randn(2, 5, 24)


def check(model: nn.Module, x: Any = X) -> Any:
    small = shrink(model.eval(), x)
    arguments = x if isinstance(x, tuple) else (x,)
    with torch.no_grad():
        torch.testing.assert_close(small(*arguments), model(*arguments), rtol=1e-4, atol=1e-5)
    return small


@torch.no_grad()
def silence(layer: nn.Linear, rows: Any) -> None:
    layer.weight[rows], layer.bias[rows] = 0.0, 0.0


def shapes(small: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in small.named_parameters() if p.dim() == 2}


def test_heads_whose_values_are_zero_are_removed() -> None:
    model = Attention()
    silence(model.v, slice(6, 12))
    silence(model.v, slice(18, 24))
    assert shapes(check(model)) == {
        "q.weight": (12, 24), "k.weight": (12, 24), "v.weight": (12, 24), "out.weight": (24, 12)
    }  # fmt: skip


def test_heads_that_nothing_reads_are_removed() -> None:
    model = Attention(joined=True)
    with torch.no_grad():
        model.out.weight[:, :6] = 0.0
    assert shapes(check(model)) == {"qkv.weight": (54, 24), "out.weight": (24, 18)}


def test_single_values_of_all_heads_are_removed() -> None:
    model = Attention()
    silence(model.v, [1, 7, 13, 19])
    silence(model.v, [3, 9])  # of two heads only
    with torch.no_grad():
        model.out.weight[:, [5, 11, 17, 23]] = 0.0
    small = shapes(check(model))
    assert (small["v.weight"], small["out.weight"], small["q.weight"]) == (
        (16, 24), (24, 16), (24, 24)
    )  # fmt: skip


def test_queries_are_removed_with_their_keys() -> None:
    model = Attention()
    silence(model.q, [0, 6, 12, 18])
    silence(model.k, [2, 8, 14, 20])
    silence(model.k, [5, 11])
    assert shapes(check(model)) == {
        "q.weight": (16, 24), "k.weight": (16, 24), "v.weight": (24, 24), "out.weight": (24, 24)
    }  # fmt: skip


def test_attention_without_heads_left_becomes_its_bias() -> None:
    model = Attention()
    silence(model.v, slice(None))
    small = check(model)
    assert sum(p.numel() for p in small.parameters()) <= 24


def test_heads_that_differ_by_a_bias_are_removed() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.table = Attention(), nn.Parameter(torch.randn(4, 5, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, self.table)

    model = Biased()
    silence(model.attention.v, slice(0, 6))
    small = check(model)
    assert small.get_parameter("table").shape == (3, 5, 5)
    assert shapes(small)["attention.q.weight"] == (18, 24)


@pytest.mark.parametrize("causal", [False, True])
def test_torch_attention_of_two_inputs(causal: bool) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
            found: Tensor = self.attention(x, y, y, attn_mask=mask, need_weights=False)[0]
            return found

    model = Cross()
    own: Any = model.attention
    with torch.no_grad():
        for part in range(2, 3):
            own.in_proj_weight[24 * part : 24 * part + 6] = 0.0
            own.in_proj_bias[24 * part : 24 * part + 6] = 0.0
    small = check(model, (X, torch.randn(2, 5, 24)))
    assert shapes(small)["attention.out_proj.weight"] == (24, 18)


@pytest.mark.parametrize("trials", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_outputs_do_not_change_whatever_is_zero(trials: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(trials):
        model = nn.Sequential(Attention(joined=trial % 2 == 0), Attention())
        with torch.no_grad():
            for p in model.parameters():
                share = torch.rand(1, generator=generator)
                dead = torch.rand(len(p) // 6, generator=generator) < share
                p[dead.repeat_interleave(6)] = 0.0
                if p.dim() == 2:
                    p[:, torch.rand(p.shape[1], generator=generator) < share] = 0.0
        small = check(model)
        assert shrink(small, X).report.parameters[1] == small.report.parameters[1]


def test_the_channels_of_a_head_are_one_block() -> None:
    model = Attention(joined=True)
    blocks = channel_blocks(model, X)
    assert len(blocks) == 4
    with torch.no_grad():
        for name, dim, index in blocks[2]:
            model.get_parameter(name).select(dim, index).zero_()
    assert shapes(check(model)) == {"qkv.weight": (54, 24), "out.weight": (24, 18)}


def test_heads_behind_a_mask_of_the_input_are_removed() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.attention(x, mask[:, None, None, :] != 0)

    model = Masked()
    silence(model.attention.v, slice(0, 6))
    small = check(model, (X, torch.tensor([[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]])))
    assert shapes(small)["attention.out.weight"] == (24, 18)


def test_channels_that_are_compared_and_chosen_are_removed() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(24, 8), nn.Linear(24, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            y = torch.where(a > b, torch.maximum(a, b), torch.minimum(a * 2, b))
            return self.out(y.clamp(min=-1))

    model = Chosen()
    for layer in (model.a, model.b):
        silence(layer, [1, 2])
    silence(model.a, [5])  # the other side stays
    assert shapes(check(model)) == {"a.weight": (6, 24), "b.weight": (6, 24), "out.weight": (3, 6)}
