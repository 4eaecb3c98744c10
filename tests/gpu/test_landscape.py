"""Curvature on a CUDA device with TF32 enabled globally, compared with float64 on the CPU."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dirprune.landscape import Hessian


@pytest.fixture
def tf32() -> Iterator[None]:
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


def problem() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    return model, [(torch.randn(32, 3, 16, 16), torch.randint(10, (32,))) for _ in range(2)]


@pytest.mark.parametrize("mode", ["auto", "graph", "reverse-over-reverse"])
def test_products_are_those_of_float64_on_the_cpu(mode: str, tf32: None) -> None:
    model, data = problem()
    exact = Hessian(
        copy.deepcopy(model).double(), F.cross_entropy, [(x.double(), y) for x, y in data]
    )
    ours = Hessian(
        model.cuda(), F.cross_entropy, [(x.cuda(), y.cuda()) for x, y in data], mode=mode
    )
    v = torch.randn(sum(p.numel() for p in model.parameters()))
    expected = exact(v.double())
    found = ours(v.cuda()).double().cpu()
    error = (found - expected).norm() / expected.norm()
    assert error < 2e-4, f"{mode}: {error:.1e} off"
