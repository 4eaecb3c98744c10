"""GRDA's options: which values are refused, and when."""

import math

import pytest
import torch
from torch import nn

from dirprune import GRDA, param_groups
from dirprune._support import native


def test_a_bad_group_is_found_before_any_weight_moves() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = GRDA([{"params": [a]}, {"params": [b]}])
    a.grad = b.grad = torch.ones(2)
    optimizer.param_groups[1]["mu"] = 2.0
    with pytest.raises(ValueError, match="mu must lie"):
        optimizer.step()
    assert torch.equal(a.detach(), torch.ones(2))
    assert optimizer.thresholds() == [0.0, 0.0]
    with pytest.raises(ValueError, match="c must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "c": -1.0})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(("option", "value"), [("lr", "0.1"), ("c", None), ("mu", "half"),
                                               ("lr", torch.tensor([0.1, 0.2]))])  # fmt: skip
def test_options_that_are_no_numbers_are_refused(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a number"):
        GRDA([nn.Parameter(torch.ones(1))], **{option: value})


BAD_OPTIONS = [
    ({"lr": -0.1}, "lr must be at least 0 and finite, got -0.1"),
    ({"lr": math.nan}, "lr must be"),
    ({"lr": math.inf}, "lr must be"),
    ({"c": -1e-3}, "c must be"),
    ({"c": math.nan}, "c must be"),
    ({"mu": 0.0}, r"mu must lie in \(0, 1\], got 0.0"),
    ({"mu": 1.1}, "mu must lie"),
    ({"mu": math.nan}, "mu must lie"),
    ({"momentum": 1.0}, "momentum must lie"),
    ({"momentum": -0.1}, "momentum must lie"),
    ({"weight_decay": -1.0}, "weight_decay must be"),
    ({"nesterov": True}, "nesterov needs momentum"),
    ({"foreach": True, "fused": True}, "cannot be combined"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=str)
def test_bad_options_are_refused_at_construction_and_later(options: dict, message: str) -> None:
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        GRDA([w], **options)
    optimizer = GRDA([w])
    w.grad = torch.ones(2)
    optimizer.param_groups[0].update(options)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert torch.equal(w.detach(), torch.ones(2))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], **options})


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        GRDA([])
    with pytest.raises(TypeError, match="GRDA needs real parameters"):
        GRDA([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = GRDA(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="GRDA needs dense gradients"):
        optimizer.step()


def test_fused_without_the_extension_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "grda_step", lambda: None)
    with pytest.raises(ValueError, match=r"needs dirprune's C\+\+ extension"):
        GRDA([nn.Parameter(torch.ones(2))], fused=True)


def test_param_groups_choose_what_is_thresholded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    assert [len(g["params"]) for g in param_groups(model)] == [6]
    assert [len(g["params"]) for g in param_groups(model, "weights")] == [2, 4]
    only = param_groups(model, lambda name, parameter: name.startswith("3"))
    assert [(len(g["params"]), g.get("c")) for g in only] == [(2, None), (4, 0.0)]
    tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight
    assert [len(g["params"]) for g in param_groups(tied)] == [3]
    with pytest.raises(ValueError, match='prune must be "all"'):
        param_groups(model, "some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        param_groups(nn.ReLU())
