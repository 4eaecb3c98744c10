"""Refreshed BatchNorm statistics, compared with those of the data."""

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


def test_deeper_layers_use_refreshed_earlier_ones_and_dropout_is_off() -> None:
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


@pytest.mark.parametrize("batches", [[(torch.randn(8, 2), 0)], [torch.randn(8, 2), torch.ones(1)]])
def test_after_a_failure_the_statistics_are_as_before(batches: list) -> None:
    layer = nn.BatchNorm1d(2)
    layer(torch.randn(8, 2) + 3)
    before = {k: b.clone() for k, b in layer.named_buffers()}
    with pytest.raises((TypeError, ValueError, IndexError)):
        refresh_batchnorm(layer, batches)
    assert all(torch.equal(before[k], b) for k, b in layer.named_buffers())
    assert layer.momentum == 0.1
    assert layer.training
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_of_one_sample_is_left_out_where_it_has_no_variance(
    momentum: float | None,
) -> None:
    model = nn.Sequential(
        *(nn.BatchNorm2d(3, momentum=momentum), nn.Conv2d(3, 4, 5)),
        *(nn.BatchNorm2d(4, momentum=momentum), nn.Flatten()),
    )
    x = torch.randn(9, 3, 5, 5)
    assert refresh_batchnorm(model, x.split(4)) == 2
    first, second = model[0], model[2]
    means = [part.mean(dim=(0, 2, 3)) for part in x.split(4)]  # 5 x 5 values: all three count
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(0))
    for part in x.split(4)[:2]:
        first.training = True
        first(part)
    inner = nn.BatchNorm2d(3)  # the first layer's outputs, by the batch
    hidden = [model[1](inner(part)) for part in x.split(4)[:2]]
    expected = torch.stack([h.mean(dim=(0, 2, 3)) for h in hidden]).mean(0)
    torch.testing.assert_close(second.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert int(second.num_batches_tracked) == 2
    assert first.momentum == momentum
    with pytest.raises(ValueError, match="BatchNorm2d gets a single value per channel in every"):
        refresh_batchnorm(model, x.split(1))


def test_a_layer_that_no_batch_reaches_keeps_its_statistics() -> None:
    class WithAuxiliaryHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.auxiliary = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.main(x) + (self.auxiliary(x) if self.training else 0)

    model = WithAuxiliaryHead()
    model(torch.randn(8, 2) + 5)
    before = {k: b.clone() for k, b in model.auxiliary.named_buffers()}
    assert refresh_batchnorm(model, [torch.full((4, 2), 3.0)]) == 1
    assert model.main.running_mean.tolist() == [3, 3]
    assert all(torch.equal(before[k], b) for k, b in model.auxiliary.named_buffers())


def test_keyword_arguments_and_a_forgotten_list() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, *, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.norm(input=u + v)

    model, x = Sum(), torch.ones(4, 2)
    assert refresh_batchnorm(model, [{"u": x, "v": 2 * x}]) == 1
    assert model.norm.running_mean.tolist() == [3, 3]
    with pytest.raises(TypeError, match=r"give \[inputs\]"):
        refresh_batchnorm(nn.BatchNorm1d(2), x)
