"""Common code that writes into the weights, compared with a reference that adopts the changes."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from dirprune import GRDA, AdamGRDA
from reference.adopting import AdoptingOptimizer

STEPS = 13
PATHS: dict[str, dict[str, Any]] = {
    "fused": {},
    "torch": {"fused": False},
    "foreach": {"foreach": True},
    "compiled": {"compile": "aot_eager"},
    "inductor": {"compile": "inductor"},
    "capturable": {"capturable": True},
    "momentum": {"momentum": 0.9, "nesterov": True},
    "momentum compiled": {"momentum": 0.9, "nesterov": True, "compile": "aot_eager"},
    "square root": {"power": 2.0},
    "adam": {"adam": True},
    "adam compiled": {"adam": True, "compile": "aot_eager"},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16 compiled": {"dtype": torch.float16, "compile": "aot_eager"},
    "float64": {"dtype": torch.float64},
    "sharded": {"sharded": True},
    "sharded momentum": {"sharded": True, "momentum": 0.9, "nesterov": True},
    "sharded adam": {"sharded": True, "adam": True},
    "sharded bfloat16": {"sharded": True, "dtype": torch.bfloat16},
}

# A writer may change the module's weights after every step; it takes the number of the step.
Writer = Callable[[nn.Module, int], None]


def lookahead(module: nn.Module) -> Writer:
    slow = [p.detach().clone() for p in module.parameters()]

    def write(module: nn.Module, n: int) -> None:
        if n % 3 == 2:
            for p, s in zip(module.parameters(), slow):
                s.lerp_(p.detach(), 0.5)
                p.copy_(s)

    return write


def averaging(module: nn.Module) -> Writer:
    average = AveragedModel(module)

    def write(module: nn.Module, n: int) -> None:
        average.update_parameters(module)
        if n % 4 == 3:
            module.load_state_dict(average.module.state_dict())

    return write


def clamping(module: nn.Module) -> Writer:
    def write(module: nn.Module, n: int) -> None:
        for p in module.parameters():
            p.data.clamp_(-0.3, 0.3)

    return write


def reloading_the_best(module: nn.Module) -> Writer:
    best: dict[str, Tensor] = {}

    def write(module: nn.Module, n: int) -> None:
        if n == 2:
            best.update(copy.deepcopy(module.state_dict()))
        if n == 7:
            module.load_state_dict(best)

    return write


def pruning_by_hand(module: nn.Module) -> Writer:
    def write(module: nn.Module, n: int) -> None:
        if n % 2:
            for p in module.parameters():
                local = p.to_local() if isinstance(p, DTensor) else p
                local[::5] = 0.0

    return write


WRITERS = [lookahead, averaging, clamping, reloading_the_best, pruning_by_hand]


class Weights(nn.Module):
    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def optimizer_of(w: nn.Parameter, options: dict[str, Any]) -> torch.optim.Optimizer:
    if options.get("adam"):
        return AdamGRDA([w], lr=0.02, c=0.5, **{k: v for k, v in options.items() if k != "adam"})
    return GRDA([w], lr=0.1, c=0.3, **options)


def reference_of(w: Tensor, options: dict[str, Any]) -> AdoptingOptimizer:
    kept = {k: v for k, v in options.items() if k in ("momentum", "power", "adam")}
    scale = {"lr": 0.02, "c": 0.5} if options.get("adam") else {"lr": 0.1, "c": 0.3}
    return AdoptingOptimizer(w, **scale, **kept)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.slow if p == "inductor" else []) for p in PATHS],
)
def test_changes_of_writers_are_adopted(
    path: str, writer: Callable[[nn.Module], Writer], mesh: Any
) -> None:
    options = dict(PATHS[path])
    backend, dtype = options.pop("compile", None), options.pop("dtype", torch.float32)
    sharded = options.pop("sharded", False)
    start = (0.6 * torch.randn(60, 64, generator=torch.Generator().manual_seed(0))).to(dtype)
    full = distribute_tensor(start.clone(), mesh, [Shard(0)]) if sharded else start.clone()
    ours, theirs = Weights(full), Weights(start.clone())
    optimizer, reference = optimizer_of(ours.w, options), reference_of(theirs.w.data, options)
    step = torch.compile(optimizer.step, backend=backend) if backend else optimizer.step
    writes = [writer(ours), writer(theirs)]
    target = torch.linspace(-0.5, 0.5, 64)
    for n in range(STEPS):
        noise = 0.3 * torch.randn(60, 64, generator=torch.Generator().manual_seed(n + 1))
        for module, update in ((ours, step), (theirs, reference.step)):
            w = module.w.detach()
            local = w.to_local() if isinstance(w, DTensor) else w
            grad = (local.float() - target + noise).to(dtype)
            if module is theirs:
                update(grad)
            else:
                ours.w.grad = distribute_tensor(grad, mesh, [Shard(0)]) if sharded else grad
                update()
        with torch.no_grad():
            for module, write in zip((ours, theirs), writes):
                write(module, n)
    found = ours.w.detach().full_tensor() if sharded else ours.w.detach()
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 2e-2)
    torch.testing.assert_close(found, theirs.w.detach(), rtol=tolerance, atol=tolerance)
    assert 0 < (found == 0).sum() < found.numel()
    assert ((found == 0) == (theirs.w == 0)).float().mean() > 0.99
