"""BatchNorm with batches, or parts of batches, of a single image."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.loop import train
from dirprune.train.single_values import running_statistics_for_single_values

MODELS = """
from torch import nn

def flat(num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes)
    )

def cumulative(num_classes):
    net = flat(num_classes)
    net[2].momentum = None
    return net
"""


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 4))


def test_one_pixel_is_normalised_by_the_running_statistics() -> None:
    net = nn.Sequential(network(), nn.BatchNorm2d(4))
    net[1].running_mean = torch.arange(4.0)
    expected = copy.deepcopy(net)
    expected[1].eval()
    x = torch.randn(1, 1, 6, 6)
    with pytest.raises(ValueError, match="more than 1 value"):
        copy.deepcopy(net)(x)
    with running_statistics_for_single_values(net, 1):
        found = net(x)
    assert torch.equal(found, expected(x))  # the first layer has 16 values and uses them
    for (name, a), b in zip(net.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(module.training for module in net.modules())


def test_a_norm_that_the_network_freezes_stays_frozen() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.norm.eval()
            return self.norm(x)

    net = Frozen()
    with running_statistics_for_single_values(net, 1):
        assert torch.equal(net(torch.ones(1, 3, 4)), torch.ones(1, 3, 4) / (1 + 1e-5) ** 0.5)
    assert not net.norm.training
    assert int(net.norm.num_batches_tracked) == 0


def test_a_failing_forward_leaves_the_network_in_training_mode() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(RuntimeError), running_statistics_for_single_values(net, 1):
        net(torch.zeros(1, 4, dtype=torch.float64))
    assert all(module.training for module in net.modules())
    assert not net[0]._forward_hooks
    assert not net[0]._forward_pre_hooks


@pytest.mark.parametrize("options", [{"batch_size": 718}, {"batch_size": 45, "accumulation": 44}])
@pytest.mark.parametrize("model", ["flat", "cumulative"])
def test_a_last_batch_of_one_image_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], model: str
) -> None:
    (tmp_path / "tail_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = TrainConfig(model=f"tail_models:{model}", epochs=1, method="sgd", **options)
    summary = train(config, tmp_path / "run", display=Displays())
    assert summary["status"] == "finished"
    assert summary["train_loss"] < 4
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert int(weights["2.num_batches_tracked"]) > 1
