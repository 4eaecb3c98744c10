"""BatchNorm refresh against the statistics of the data itself."""

import pytest
import torch
from torch import nn

from dirprune import refresh_batchnorm


def test_statistics_are_those_of_the_data() -> None:
    x = torch.randn(4, 16, 3, 5, 5) * torch.tensor([1.0, 2, 3]).view(3, 1, 1) + 7
    layer = nn.BatchNorm2d(3, momentum=0.3)
    layer.eval()
    assert refresh_batchnorm(layer, list(x)) == 1
    torch.testing.assert_close(layer.running_mean, x.mean(dim=(0, 1, 3, 4)))
    expected = torch.stack([b.transpose(0, 1).flatten(1).var(dim=1) for b in x]).mean(0)
    torch.testing.assert_close(layer.running_var, expected)
    assert layer.momentum == 0.3
    assert not layer.training


def test_deeper_layers_see_what_earlier_ones_pass_on_and_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.9), nn.BatchNorm1d(6))
    model.train()
    x = torch.randn(64, 4) * 3
    weights = [p.clone() for p in model.parameters()]
    assert refresh_batchnorm(model, [x]) == 2
    torch.testing.assert_close(model[3].running_mean, torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(model[3].running_var, torch.full((6,), 64 / 63), atol=1e-4, rtol=0)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))


def test_without_layers_no_batch_is_read_and_an_empty_stream_changes_nothing() -> None:
    assert refresh_batchnorm(nn.Linear(2, 2), iter([None])) == 0  # type: ignore[list-item]
    no_statistics = nn.BatchNorm1d(2, track_running_stats=False)
    assert refresh_batchnorm(no_statistics, []) == 0
    layer = nn.BatchNorm1d(2)
    layer(torch.randn(8, 2))
    before = layer.running_mean.clone()
    with pytest.raises(ValueError, match="at least one batch"):
        refresh_batchnorm(layer, [])
    assert torch.equal(layer.running_mean, before)


@pytest.mark.parametrize(
    "batches", [[(torch.randn(8, 2), 0)], [torch.randn(8, 2), torch.randn(1, 2)]]
)
def test_after_a_failure_the_statistics_are_as_before(batches: list) -> None:
    layer = nn.BatchNorm1d(2)
    layer(torch.randn(8, 2) + 3)
    before = {k: b.clone() for k, b in layer.named_buffers()}
    with pytest.raises((TypeError, ValueError)):
        refresh_batchnorm(layer, batches)
    assert all(torch.equal(before[k], b) for k, b in layer.named_buffers())
    assert layer.momentum == 0.1
    assert layer.training
