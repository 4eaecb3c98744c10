"""The program of results/structures."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

RESULTS = Path(__file__).parents[1] / "results"
MODULES = ("network", "training", "measure", "problems")


@pytest.fixture
def programs() -> Iterator[dict[str, ModuleType]]:
    """The modules beside the program, imported as the program does."""
    import importlib

    sys.path.insert(0, str(RESULTS / "structures"))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(RESULTS / "structures"))
        for name in MODULES:
            sys.modules.pop(name, None)


def test_multiply_adds_and_narrow_widths(programs: dict[str, ModuleType]) -> None:
    network = programs["network"]

    def count(a: int, b: int, c: int) -> int:  # by the sizes 14, 7 and 4 of the three stages
        stem, first = 14**2 * 9 * a, 14**2 * 9 * 2 * a * a
        second, third = 7**2 * (9 * (a * b + b * b) + a * b), 4**2 * (9 * (b * c + c * c) + b * c)
        return stem + first + second + third + 10 * c

    dense = network.multiply_adds(network.residual_network())
    assert dense == count(8, 16, 32)
    widths = network.narrow_widths(0.5)
    assert 0.49 * dense < count(*widths) <= 0.5 * dense


def test_the_search_for_a_sparsity_ends_near_the_target(programs: dict[str, ModuleType]) -> None:
    measure = programs["measure"]
    done: dict[object, object] = {}
    for _ in range(measure.TRIALS):
        sparsity, known = measure.calibrated(done, "grda p=2", 0.25, 0.1)
        if known:
            break
        job = measure.Job("grda p=2", 0.25, 0.1, "one", sparsity, 0)
        macs = (1 - sparsity) ** 1.5
        done[job] = measure.Result(*measure.astuple(job), macs, 0.0, 1, 0.0, 0.0, 0.0)
    found = done[measure.Job("grda p=2", 0.25, 0.1, "one", sparsity, 0)]
    assert 0.22 <= found.macs <= 0.26  # type: ignore[attr-defined]


def test_sr_ste_follows_its_equation(programs: dict[str, ModuleType]) -> None:
    training = programs["training"]
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    w = torch.tensor([[0.1, -0.4, 0.3, 0.2]])
    with torch.no_grad():
        model[0].weight.copy_(w)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    nn.utils.parametrize.register_parametrization(model[0], "weight", training._SrSte())
    model(x).sum().backward()
    pruned = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    gradient = model[0].parametrizations["weight"].original.grad
    torch.testing.assert_close(gradient, x + 2e-4 * pruned * w)
    torch.testing.assert_close(model[0].weight, w * (1 - pruned))


@pytest.mark.parametrize("method", ["grda p=2", "2:4 grda p=2", "2:4 one-shot", "2:4 sr-ste"])
def test_methods_reach_their_structure(programs: dict[str, ModuleType], method: str) -> None:
    measure, network = programs["measure"], programs["network"]

    def batches(_: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(8, 1, 28, 28, generator=generator), torch.arange(8)

    problem = measure.Problem(8, network.residual_network, batches, None, "accuracy", False)
    model = measure.trained(measure.Job(method, 0.5, 0.1, "one", 0.5, 0), problem)
    if method.startswith("2:4"):
        for _, w in programs["training"].two_four_parameters(model):
            fours = w.detach().movedim(1, -1).reshape(-1, 4)
            assert (fours == 0).sum(1).ge(2).all()
    else:
        dense = network.residual_network()
        assert network.multiply_adds(model) < network.multiply_adds(dense)
