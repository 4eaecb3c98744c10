"""Accounting against counting by hand and slow loops."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dirprune import sparsity_report


def sparsify(model: nn.Module, share: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(torch.rand(p.shape, generator=generator) >= share)
    return model


def silent_channels(conv: nn.Module, x_channels: int, x: Tensor) -> tuple[int, int]:
    """Dead outputs and unread inputs, by changing the input and watching the output."""
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


@settings(max_examples=30, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    transposed=st.booleans(),
    share=st.floats(0.5, 1.0),
    seed=st.integers(0, 1000),
)
def test_silent_channels_are_those_that_no_experiment_hears(
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


def test_what_counts() -> None:
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
    report = sparsity_report(dead)
    assert report.sparsity == 1
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
