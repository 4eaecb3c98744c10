"""Runs with a target_sparsity end with exactly this share of zeros."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Interrupted
from dirprune.train.loop import train
from dirprune.train.methods import build_optimizer, target_plan
from stop_at import StopAt

QUIET = Displays()
FAST = TrainConfig(model="mlp", width=0.1, epochs=2, batch_size=100)


@pytest.mark.parametrize(
    "config",
    [
        replace(FAST, target_sparsity=0.9),
        replace(FAST, target_sparsity=0.9, seed=2, prune="weights", power=1.0),
        replace(FAST, method="grda_momentum", momentum=0.9, lr=0.05, target_sparsity=0.8, c=0.0),
        replace(FAST, method="adam_grda", lr=0.005, target_sparsity=0.95, plan_end=0.5),
        replace(FAST, model="resnet20", width=0.25, epochs=1, target_sparsity=0.9),
        replace(FAST, method="hard", sparsity=0.9),
        replace(FAST, method="rigl", sparsity=0.9, momentum=0.9, lr=0.05),
        replace(FAST, method="acdc", sparsity=0.9, momentum=0.9, lr=0.05),
    ],
    ids=lambda c: f"{c.method}-{c.model}-{c.prune}",
)
def test_the_run_ends_at_its_target(tmp_path: Path, config: TrainConfig) -> None:
    summary = train(config, tmp_path / "run", display=QUIET)
    expected = config.target_sparsity or config.mask_sparsity
    weights = load_file(tmp_path / "run" / "model.safetensors")
    zeros = sum(int((t == 0).sum()) for n, t in weights.items() if "num_batches" not in n)
    assert zeros == summary["zeros"]
    assert abs(zeros - expected * summary["total"]) < 0.501
    assert summary["status"] == "finished"
    layers = [layer for layer in summary["layers"] if len(layer["shape"]) > 1]
    assert all(layer["zeros"] < math.prod(layer["shape"]) for layer in layers)


@pytest.mark.parametrize("method", ["grda", "adam_grda", "rigl", "acdc", "hard"])
def test_a_run_with_a_target_resumes_bit_identically(tmp_path: Path, method: str) -> None:
    expected = {"target_sparsity": 0.9} if "grda" in method else {"sparsity": 0.9}
    lr = 0.005 if method == "adam_grda" else 0.05
    config = replace(FAST, method=method, lr=lr, **expected)
    train(config, tmp_path / "uninterrupted", display=QUIET)
    for i, stop in enumerate((4, 13, 22)):
        with pytest.raises(Interrupted):
            train(config, tmp_path / "interrupted", resume=i > 0, display=StopAt(stop))
    train(config, tmp_path / "interrupted", resume=True, display=QUIET)
    uninterrupted, interrupted = (
        tmp_path / name / "model.safetensors" for name in ("uninterrupted", "interrupted")
    )
    assert uninterrupted.read_bytes() == interrupted.read_bytes()


def test_the_target_counts_all_trainable_parameters() -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 5))
    net[0].bias.requires_grad_(False)
    config = replace(FAST, prune="weights", target_sparsity=0.5)
    plan = target_plan(config, net, 100)
    assert plan is not None
    assert plan.sparsity * 700 == pytest.approx(0.5 * 745, abs=0.51)


def test_an_unreachable_target_is_refused_with_the_possible_range() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))  # 20 of 26 parameters are weights
    config = replace(FAST, prune="weights", target_sparsity=0.7)
    with pytest.raises(ValueError, match=r"18 zeros, but at most 16 of 26 .* at most 0\.6153"):
        build_optimizer(config, net, 10)
    build_optimizer(replace(config, target_sparsity=0.6153), net, 10)
    with pytest.raises(ValueError, match=r"prune all"):
        build_optimizer(replace(config, target_sparsity=0.9), net, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sgd", "target_sparsity": 0.5}, "target_sparsity is for grda"),
        ({"method": "gmp", "target_sparsity": 0.5}, "remove it; use sparsity"),
        ({"method": "grda", "sparsity": 0.5}, "remove it; use target_sparsity"),
        ({"method": "rda", "power": 2.0}, "power is for grda"),
        ({"method": "adam_grda", "momentum": 0.9}, "adam_grda has no momentum"),
        ({"method": "rigl", "nesterov": True}, "nesterov needs momentum"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    options: dict[str, object], message: str
) -> None:
    config = replace(FAST, **options)
    with pytest.raises(ValueError, match=message):
        build_optimizer(config, nn.Linear(4, 2), 10)


def test_the_hard_threshold_does_not_shrink_weights() -> None:
    torch.manual_seed(0)
    net = nn.Linear(20, 10, bias=False)
    before = net.weight.detach().clone()
    optimizer = build_optimizer(replace(FAST, method="hard", sparsity=0.5), net, 1)
    net.weight.grad = torch.zeros_like(net.weight)
    optimizer.step()
    kept = before.abs() > before.abs().flatten().sort().values[99]
    assert torch.equal(net.weight.detach(), torch.where(kept, before, 0.0))
