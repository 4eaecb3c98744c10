"""Every function that takes a model gives the same result for a wrapped model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from dirprune import param_groups, sparsity_report
from dirprune.deploy import Engine, load, save, shrink
from dirprune.landscape import Hessian


class Subclass(DistributedDataParallel):
    """A subclass of DDP, as in other libraries."""


def timm_average(net: nn.Module) -> nn.Module:
    return pytest.importorskip("timm").utils.ModelEmaV3(net)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": DataParallel,
    "DDP": DistributedDataParallel,
    "a subclass of DDP": Subclass,
    "AveragedModel": AveragedModel,
    "torch.compile": lambda net: torch.compile(net, backend="eager"),
    "compiled DDP": lambda net: torch.compile(DistributedDataParallel(net), backend="eager"),
    "DDP of a compiled": lambda net: DistributedDataParallel(torch.compile(net, backend="eager")),
    "checkpoint_wrapper": checkpoint_wrapper,
    "timm's ModelEmaV3": timm_average,
}


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def net() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight[:2] = 0.0
        net[0].bias[:2] = 0.0
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_counting_grouping_and_curvature(wrapper: str, net: nn.Module, x: Tensor) -> None:
    wrapped = WRAPPERS[wrapper](net)
    assert sparsity_report(wrapped) == sparsity_report(net)
    names: list[list[str]] = [[], []]
    for model, seen in zip((net, wrapped), names):
        param_groups(model, lambda name, _, seen=seen: bool(seen.append(name)))
        groups = param_groups(model, "weights")
        assert [len(group["params"]) for group in groups] == [2, 4]
    assert names[0] == names[1] == [name for name, _ in net.named_parameters()]
    data = [(x, torch.tensor([0, 1, 2, 0, 1]))]
    plain, other = (Hessian(model, cross_entropy, data) for model in (net, wrapped))
    v = torch.linspace(-1, 1, plain.dimension)
    torch.testing.assert_close(other(v), plain(v))
    assert other.shapes == plain.shapes


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_deployment(wrapper: str, net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    wrapped = WRAPPERS[wrapper](net).eval()
    small, plain_small = (shrink(model, x) for model in (wrapped, net.eval()))
    assert small.report.parameters == plain_small.report.parameters
    torch.testing.assert_close(small(x), net(x))
    save(wrapped, tmp_path / "weights.dpz")
    assert list(load(tmp_path / "weights.dpz")) == list(net.state_dict())
    for name, model in (("wrapped", wrapped), ("plain", net)):
        save(model, tmp_path / f"{name}.dpz", x)
    assert (tmp_path / "wrapped.dpz").read_bytes() == (tmp_path / "plain.dpz").read_bytes()
    output = torch.from_numpy(Engine(tmp_path / "wrapped.dpz", threads=1)(x.numpy()))
    torch.testing.assert_close(output, net(x).detach())
