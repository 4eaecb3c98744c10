"""Sparsity reports, compared with manual counts and slow loops."""

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from dirprune import sparsity_report


def sparsify(model: nn.Module, share: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(torch.rand(p.shape, generator=generator) >= share)
    return model


def silent_channels(conv: nn.Module, x_channels: int, x: Tensor) -> tuple[int, int]:
    """Count dead outputs and unread inputs by changing the input and comparing outputs."""
    with torch.no_grad():
        conv.bias.zero_()
        base = conv(x)
        dead = int((base == 0).flatten(2).all(dim=2).all(dim=0).sum())
        unread = 0
        for channel in range(x_channels):
            other = x.clone()
            other[:, channel] += 1.5
            unread += int(torch.equal(conv(other), base))
    return dead, unread


@pytest.mark.filterwarnings("ignore:every entry of weight is zero")
@settings(max_examples=30)
@given(
    groups=st.sampled_from([1, 2, 4]),
    transposed=st.booleans(),
    share=st.floats(0.5, 1.0),
    seed=st.integers(0, 1000),
)
def test_silent_channels_equal_those_of_an_experiment(
    groups: int, transposed: bool, share: float, seed: int
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = sparsify(kind(4, 8, 2, groups=groups), share, seed)
    layer = sparsity_report(conv).layers[0]
    x = torch.rand(2, 4, 5, 5) + 0.1
    assert (layer.outputs, layer.inputs) == (8, 4)
    dead, unread = silent_channels(conv, 4, x)
    assert (layer.dead_outputs, layer.unread_inputs) == (dead, unread)


def test_totals_and_norms_are_numpys() -> None:
    model = sparsify(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(4, 2)), 0.7)
    flat = np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])
    report = sparsity_report(model)
    assert (report.zeros, report.total) == (int((flat == 0).sum()), flat.size)
    assert report.nonzeros == np.count_nonzero(flat)
    assert report.sparsity == report.zeros / report.total
    assert report.l1 == pytest.approx(np.linalg.norm(flat, 1), rel=1e-12)
    assert report.l2 == pytest.approx(np.linalg.norm(flat), rel=1e-12)
    assert flat.size**-0.5 <= report.l2_over_l1 <= 1
    assert [layer.outputs for layer in report.layers] == [5, None, None, None, 2, None]


def test_which_tensors_count() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, -0.0], [math.nan, 1.0]]))
    report = sparsity_report(model)
    assert [layer.name for layer in report.layers] == ["0.weight", "0.bias", "1.bias", "2.bias"]
    assert report.layers[0].zeros == 2
    assert report.layers[0].dead_outputs == 1


def test_empty_and_dead_models() -> None:
    assert sparsity_report(nn.ReLU()).sparsity == 0
    dead = sparsify(nn.Linear(3, 2), 2.0)
    with pytest.warns(UserWarning, match="every entry of weight is zero"):
        report = sparsity_report(dead)
    assert report.sparsity == 1
    assert "all zero: weight" in str(report).splitlines()
    assert math.isnan(report.l2_over_l1)
    assert (report.layers[0].dead_outputs, report.layers[0].unread_inputs) == (2, 3)
    empty = nn.Module()
    empty.weight = nn.Parameter(torch.ones(0, 2))
    assert sparsity_report(empty).layers[0].sparsity == 0


def test_the_table_shows_every_layer_and_the_report_is_frozen() -> None:
    report = sparsity_report(sparsify(nn.Linear(3, 2), 0.5))
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["weight", "bias", "all", "l1"]
    assert f"{report.zeros:,}" in lines[-2]
    assert f"{report.sparsity:.2%}" in lines[-2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.l1 = 0.0  # type: ignore[misc]


def test_a_shared_weight_counts_once_with_its_first_owner() -> None:
    model = nn.ModuleList(
        [nn.Conv2d(4, 4, 1, bias=False), nn.ConvTranspose2d(4, 4, 1, bias=False)]
    )
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[1] = 0
    (layer,) = sparsity_report(model).layers
    assert (layer.name, layer.dead_outputs, layer.unread_inputs) == ("0.weight", 1, 0)


def hooked(layer: nn.Module, name: str) -> nn.Module:
    """A layer with one of torch's older, hook-based norms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(nn.utils, name)(layer)  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """A parametrization with parameters, a buffer that each read changes, and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(6, 1)), nn.Parameter(torch.ones(1, 4))
        self.register_buffer("readings", torch.zeros(()))

    def forward(self, w: Tensor) -> Tensor:
        self.readings += 1
        return w + self.a @ self.b + 0 * torch.rand(())


def low_rank(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", LowRank())


COMPUTED = {
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", amount=10),
    "structured mask": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "weight norm": parametrizations.weight_norm,
    "weight norm, hook": lambda layer: hooked(layer, "weight_norm"),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, hook": lambda layer: hooked(layer, "spectral_norm"),
    "orthogonal": parametrizations.orthogonal,
    "low rank": low_rank,
}


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=list(COMPUTED))
def test_computed_weights_count_as_the_layer_uses_them_and_nothing_changes(
    compute: Callable[[nn.Module], nn.Module],
) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).train()
    with torch.no_grad():
        net[0].weight[1, :3] = 0
        net[0].weight[:, 2] *= -0.0
    net[0] = compute(net[0])
    state = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    report = sparsity_report(net)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert net.training
    assert all(module.training for module in net.modules())
    used = net.eval()[0]
    used(torch.zeros(1, 4))  # hooks compute the weight
    row = {layer.name: layer for layer in report.layers}["0.weight"]
    assert {layer.name for layer in report.layers} == {
        *("0.weight", "0.bias", "2.weight", "2.bias")
    }
    assert row.zeros == int((used.weight == 0).sum())
    assert row.shape == tuple(used.weight.shape)
    assert (row.outputs, row.inputs, row.kind) == (6, 4, "Linear")
    squares = [used.weight, used.bias, net[2].weight, net[2].bias]
    norm = math.sqrt(sum(float((t.detach().double() ** 2).sum()) for t in squares))
    assert report.l2 == pytest.approx(norm, rel=1e-6)


def test_a_mask_over_a_normalised_direction() -> None:
    layer = hooked(nn.Linear(4, 6), "weight_norm")
    prune.l1_unstructured(layer, "weight_v", amount=3)
    rows = {row.name: row.zeros for row in sparsity_report(layer).layers}
    assert rows == {"weight": 3, "bias": 0}


def test_complex_weights_count_by_magnitude() -> None:
    net = nn.Module()
    net.weights = nn.Parameter(torch.tensor([[0, 3 + 4j], [-0.0, 12j]]))
    report = sparsity_report(net)
    assert (report.zeros, report.total, report.l1, report.l2) == (2, 4, 17, 13)


def test_wrappers_leave_the_names_alone() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = [name for name, _ in net.named_parameters()]
    for wrapped in (torch.compile(net, backend="eager"), nn.DataParallel(net), AveragedModel(net)):
        assert [layer.name for layer in sparsity_report(wrapped).layers] == names
    net[1] = torch.compile(net[1], backend="eager")
    assert [layer.name for layer in sparsity_report(net).layers] == names


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_traced_network_is_counted_like_its_source() -> None:
    net = sparsify(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), 0.5)
    traced = torch.jit.trace(net, torch.ones(1, 3))
    assert sparsity_report(traced).zeros == sparsity_report(net).zeros > 0


def test_parameters_that_share_their_memory_count_once() -> None:
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))
    net[1].weight = nn.Parameter(net[0].weight.detach().t())
    assert sparsity_report(net).total == 6


def test_storage_formats() -> None:
    net = nn.Module()
    net.rows = nn.Parameter(torch.eye(3).to_sparse())
    net.small = nn.Parameter(torch.tensor([0.0, 2.0]).to(torch.float8_e4m3fn))
    report = sparsity_report(net)
    assert (report.zeros, report.total, report.l1) == (7, 11, 5)


def test_parameters_without_values_are_refused_by_name() -> None:
    with torch.device("meta"):
        nowhere = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"0\.weight is on the meta device"):
        sparsity_report(nowhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"0\.weight has no values yet: pass one batch"):
        sparsity_report(lazy)


def test_a_layer_without_a_weight_left_is_named() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    nn.init.zeros_(net[0].weight)  # the norm's bias is zero too, as it always is at first
    with pytest.warns(UserWarning, match=r"every entry of 0\.weight is zero"):
        report = sparsity_report(net)
    assert [layer.name for layer in report.layers if layer.is_empty] == ["0.weight"]
