"""The size of the batch as a number in a network's arithmetic, and outputs without a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.deploy import Engine, GraphNet, capture, load, save
from dirprune.deploy.onnx import write_onnx

SIZES = (1, 2, 7, 8, 19)
"""Single images, a whole block of lanes, and both."""

CASES: dict[str, Callable[[Tensor], Any]] = {
    "divided": lambda x: x / x.shape[0],
    "added": lambda x: x + x.size(0),
    "multiplied": lambda x: x * x.shape[0],
    "subtracted from": lambda x: x.shape[0] - x,
    "its root": lambda x: x / x.shape[0] ** 0.5,
    "its half and remainder": lambda x: x + x.shape[0] // 2 - x * (x.shape[0] % 3),
    "as exponent": lambda x: x.abs() ** (1 / x.shape[0]),
    "as alpha": lambda x: torch.add(x, x, alpha=x.size(0)),
    "as bound": lambda x: x.clamp(0, x.shape[0]),
    "as lower bound": lambda x: x.clamp(min=1 - x.shape[0]),
    "as tensor": lambda x: x * torch.scalar_tensor(x.size(0)),
    "as filler": lambda x: torch.full((4,), x.size(0)) * x.masked_fill(x > 0, x.size(0)),
    "chosen": lambda x: torch.where(x > 0, x, x.shape[0]),
    "as size": lambda x: x.new_zeros(x.shape[0], 4) + x,
    "range": lambda x: x + torch.arange(x.size(0))[:, None],
    "range with step": lambda x: x + torch.arange(1, 2 * x.size(0) + 1, 2)[:, None],
    "longer range": lambda x: torch.arange(2 * x.size(0)).view(x.size(0), 2) * x[:, :2],
    "mean by numel": lambda x: x.sum(1) / x.numel(),
    "mean by a sample's numel": lambda x: x.sum(1) / x[0].numel(),
    "joined": lambda x: torch.cat([x, torch.full((x.size(0), 1), x.size(0))], 1),
    "constant for every sample": lambda x: torch.arange(4).repeat(x.size(0), 1) * x,
    "one place of every sample": lambda x: x[torch.arange(x.size(0)), x.argmax(1)],
    "one-hot": lambda x: F.one_hot(x.argmax(1), 4) * x,
    "outputs without batch": lambda x: (x, torch.tensor([1.0, 2.0]), torch.arange(3),
                                        torch.full((2, 2), x.size(0))),
}  # fmt: skip


class Head(nn.Module):
    """A layer, and a function of what it gives."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.linear(x))


def assert_same(found: Any, expected: Any) -> None:
    pairs = [(found, expected)] if isinstance(expected, Tensor) else zip(found, expected)
    for own, wanted in pairs:
        own = torch.as_tensor(own)
        assert own.dtype == wanted.dtype
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_size_of_the_batch_is_computed_with(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Head(CASES[name]).eval()
    save(model, tmp_path / "m.dpz", torch.randn(1, 4))
    net = load(tmp_path / "m.dpz")
    engines = [Engine(tmp_path / "m.dpz", threads=n, tune=n > 1) for n in (1, 2)]
    for size in SIZES:
        x = torch.randn(size, 4)
        expected = model(x)
        assert_same(net(x), expected)
        for engine in engines:
            assert_same(engine(x.numpy()), expected)


@torch.no_grad()
def test_a_captured_network_keeps_the_size_of_the_batch_when_captured_again() -> None:
    model = Head(lambda x: x / x.shape[0] + torch.arange(x.size(0))[:, None]).eval()
    again = GraphNet(capture(GraphNet(capture(model, torch.randn(1, 4))), torch.randn(3, 4)))
    x = torch.randn(5, 4)
    assert_same(again(x), model(x))


@pytest.mark.parametrize("name", ["divided", "longer range", "outputs without batch"])
@torch.no_grad()
def test_onnx_has_the_size_of_the_batch(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = Head(CASES[name]).eval()
    write_onnx(capture(model, torch.randn(1, 4)), tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    for size in (1, 5):
        x = torch.randn(size, 4)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = model(x)
        assert_same(found if len(found) > 1 else found[0], expected)


def test_an_output_without_batch_needs_a_sample(tmp_path: Path) -> None:
    save(Head(lambda x: (x, torch.ones(2))), tmp_path / "m.dpz", torch.randn(1, 4))
    with pytest.raises(ValueError, match="at least one sample"):
        Engine(tmp_path / "m.dpz", threads=1)(np.ones((0, 4), np.float32))


def test_sizes_that_are_not_multiples_of_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of the batch"):
        capture(Head(lambda x: x[:, 0] + torch.arange(x.size(0) + 1)[1:]), torch.randn(2, 4))
