"""Networks whose sizes vary are shrunk for all of their sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.test_dynamic_sizes import CASES, MAPS, call, inputs_of
from dirprune.deploy import Engine, channel_blocks, load, save, shrink

ENDS_AND_BETWEEN = ((0.0, 2), (1.0, 2), (0.2, 3), (0.45, 1), (0.8, 2))


def cases() -> list[Any]:
    """The networks; those much like another one are left to the slow tests."""
    alike = ("convolutions", "one dimension", "encoder by name", "maps of one pixel")
    return [pytest.param(n, marks=pytest.mark.slow) if n in alike else n for n in CASES]


@torch.no_grad()
def without_channels(model: nn.Module, share: float = 0.5) -> nn.Module:
    """Set outputs of every layer to zero, some with a bias, which makes them constant."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            dead = torch.rand(len(module.weight)) < share
            module.weight[dead] = 0.0
            if module.bias is not None:
                module.bias[dead & (torch.rand(len(dead)) < 0.5)] = 0.0
    return model.eval()


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def check(model: nn.Module, example: Any, dynamic: Any, folder: Path) -> nn.Module:
    """Compare what is shrunk, its file and the engine with the model at several sizes."""
    small = shrink(model, example, dynamic)
    save(small, folder / "m.dpz", example)
    nets: list[Any] = [small, load(folder / "m.dpz"), Engine(folder / "m.dpz", tune=False)]
    for part, batch in ENDS_AND_BETWEEN:
        inputs = inputs_of(example, dynamic, part, batch)
        expected = call(model, inputs)
        for net in nets:
            given = {k: x.numpy() for k, x in inputs.items()} if net is nets[-1] else inputs
            for found, wanted in zip(call(net, given), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert shrink(small, example).report.parameters[0] == small.report.parameters[1]
    return small


@pytest.mark.parametrize("name", cases())
def test_outputs_stay_the_same_at_all_sizes(name: str, tmp_path: Path) -> None:
    make, example, dynamic = CASES[name]
    model = without_channels(make())
    small = check(model, example, dynamic, tmp_path)
    if name != "causal":  # which has no weights
        assert parameters(small) < parameters(model)


def network(function: Callable[..., Tensor], **layers: nn.Module) -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict(layers)

        def forward(self, x: Tensor) -> Tensor:
            return function(x, **self.layers)

    torch.manual_seed(0)
    return Network().eval()


@torch.no_grad()
def one_dead_filter(weight_at: Callable[[Tensor], Tensor]) -> nn.Module:
    """A constant channel; the second layer reads it with the weights that ``weight_at`` keeps."""
    first, second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    first.weight[1], first.bias[1] = 0.0, 2.0
    second.weight[:, 1] = weight_at(second.weight[:, 1])
    return nn.Sequential(first, second).eval()


def test_a_constant_at_padding_of_some_sizes_is_kept(tmp_path: Path) -> None:
    # Windows with stride 2 meet padding at the end of odd sizes only.
    model = one_dead_filter(lambda w: F.pad(w[:, 2:, 2:], (2, 0, 2, 0)))
    small = check(model, torch.randn(2, 3, 32, 32), {0: MAPS}, tmp_path)
    assert small.report.layers[0].after.outputs == 4
    even = {0: {2: (16, 64, 2), 3: (16, 64, 2)}}
    small = check(model, torch.randn(2, 3, 32, 32), even, tmp_path)
    assert small.report.layers[0].after.outputs == 3


def test_a_constant_away_from_padding_is_folded(tmp_path: Path) -> None:
    model = one_dead_filter(lambda w: F.pad(w[:, 1:2, 1:2], (1, 1, 1, 1)))
    small = check(model, torch.randn(2, 3, 32, 32), {0: MAPS}, tmp_path)
    assert small.report.layers[0].after.outputs == 3


def _scaled_by_length(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    return last(first(x) / x.shape[1])


def _with_places(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    return last(torch.relu(first(x)) + first.places[: x.shape[1]])


def _half(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    return last(first(x)[:, : (x.shape[1] + 1) // 2])


def _first_token(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    y = torch.cat([first.places[None, :1].expand(x.shape[0], 1, -1), first(x)], 1)
    return last(F.softmax(y @ y.transpose(1, 2), -1) @ y)


def _gated(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    y = first(x)
    return last(torch.sigmoid(y.mean(1, keepdim=True)) * y)


def _halves(x: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    a, b = first(x).reshape(x.shape[0], x.shape[1], 2, -1).unbind(2)
    return last(torch.cat([F.silu(a) * b, a], -1))


@pytest.mark.parametrize(
    "function", [_scaled_by_length, _with_places, _half, _first_token, _gated, _halves]
)
@torch.no_grad()
def test_constants_that_depend_on_the_length(
    function: Callable[..., Tensor], tmp_path: Path
) -> None:
    first = nn.Linear(8, 12)
    first.places = nn.Parameter(torch.randn(40, 12))
    first.weight[3:6], first.bias[4] = 0.0, 0.0
    first.places[:, 4:6] = 0.0
    model = network(function, first=first, last=nn.Linear(12, 5))
    for length in (1, 7):
        check(model, torch.randn(2, length, 8), {"x": {1: (1, 40)}}, tmp_path)


@pytest.mark.slow
@torch.no_grad()
def test_dead_heads_and_widths_of_an_encoder_are_removed(tmp_path: Path) -> None:
    make, example, dynamic = CASES["encoder"]
    model = make().eval()
    layer: Any = model.layers.layers[0]
    layer.linear1.weight[5:20], layer.linear1.bias[5:20] = 0.0, 0.0
    values = slice(32, 40)  # the first head's
    layer.self_attn.in_proj_weight[values], layer.self_attn.in_proj_bias[values] = 0.0, 0.0
    small = check(model, example, dynamic, tmp_path)
    before, after = small.report.parameters
    assert before - after >= 15 * (16 + 1 + 16)
    fixed = shrink(model, example).report.parameters
    assert before - after == fixed[0] - fixed[1]


def test_blocks_do_not_depend_on_the_sizes(tmp_path: Path) -> None:
    make, example, dynamic = CASES["U-Net"]
    model = make().eval()
    save(model, tmp_path / "m.dpz", example, dynamic=dynamic)
    net: Any = load(tmp_path / "m.dpz")
    assert channel_blocks(net, example) == channel_blocks(model, example)


def test_bounds_belong_to_the_model(tmp_path: Path) -> None:
    make, example, dynamic = CASES["U-Net"]
    small = shrink(make().eval(), example, dynamic)
    with pytest.raises(ValueError, match="fixed already"):
        shrink(small, example, dynamic)
    with pytest.raises(ValueError, match="size 31 is not within 16 to 64"):
        small(torch.ones(1, 3, 31, 32))
