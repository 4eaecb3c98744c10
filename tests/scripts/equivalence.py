"""Checks for test_equivalence.py: several processes train like one process.

Every process also trains the whole model on whole batches, which is what one process would do.
"""

import copy
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from dirprune import GRDA, AdamGRDA, SparsityPlan, param_groups, sparsity_report
from reference.adopting import AdoptingOptimizer

STEPS, BATCH = 8, 24
SAVED_AFTER = 5
MAKERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "law": lambda net: GRDA(net.parameters(), lr=0.1, c=0.05),
    "momentum": lambda net: GRDA(net.parameters(), lr=0.1, c=0.02, momentum=0.9),
    "foreach": lambda net: GRDA(net.parameters(), lr=0.1, c=0.05, foreach=True),
    "plan": lambda net: GRDA(
        param_groups(net, "weights"), lr=0.1, momentum=0.9, plan=SparsityPlan(0.7, STEPS)
    ),
    "adam": lambda net: AdamGRDA(
        param_groups(net, "weights"), lr=0.01, weight_decay=0.1, plan=SparsityPlan(0.7, STEPS)
    ),
}
CHECKS: dict[str, Callable[[Path], None]] = {}


def check(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CHECKS[function.__name__] = function
    return function


# The models


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 6)).double()


class Awkward(nn.Module):
    """Tied weights, a frozen layer, one used only late, and one used at every third step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inward, self.frozen = nn.Linear(20, 16), nn.Linear(16, 16)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.late, self.intermittent = nn.Linear(16, 16), nn.Linear(16, 16)
        self.frozen.requires_grad_(False)
        self.step = 0
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.tanh(self.first(self.frozen(self.inward(x)))))
        if self.step >= 3:
            y = y + self.late(y)
        if self.step % 3 == 1:
            y = y + self.intermittent(y)
        return y


# Training


def batch(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(BATCH, 20, generator=torch.Generator().manual_seed(n)).to(dtype)


def share(x: Tensor) -> Tensor:
    return x.chunk(dist.get_world_size())[dist.get_rank()]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: Callable[[Tensor], Tensor],
    steps: range = range(STEPS),
    *,
    pieces: int = 1,
    clip: float | None = None,
    step: Callable[[], Any] | None = None,
) -> None:
    inner = getattr(model, "module", model)
    for n in steps:
        inner.step = n
        optimizer.zero_grad()
        for i, x in enumerate(part(batch(n)).chunk(pieces), start=1):
            waiting: AbstractContextManager[None] = nullcontext()
            if i < pieces and isinstance(model, DistributedDataParallel):
                waiting = model.no_sync()
            with waiting:
                (model(x).square().mean() / pieces).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        (step or optimizer.step)()


def whole_tensors(model: nn.Module) -> list[Tensor]:
    return [
        p.detach().full_tensor() if hasattr(p, "full_tensor") else p.detach()
        for p in model.parameters()
    ]


def assert_same(model: nn.Module, expected: nn.Module, tolerance: float = 1e-9) -> None:
    """Check that processes are bit-identical, and equal to one process up to rounding."""
    found = whole_tensors(model)
    for ours, theirs in zip(found, whole_tensors(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        assert torch.equal(ours == 0, theirs == 0)
        copies = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, ours.contiguous())
        assert all(torch.equal(ours, other) for other in copies)
    assert any((ours == 0).any() for ours in found)


def pairs() -> Iterator[tuple[nn.Module, nn.Module, Callable[..., torch.optim.Optimizer]]]:
    """Yield two equal models and the constructor of their optimizer, for every optimizer."""
    for maker in MAKERS.values():
        yield plain(), plain(), maker


# The checks


@check
def ddp(folder: Path) -> None:
    for options in ({}, {"pieces": 2, "clip": 0.05}):
        for ours, theirs, maker in pairs():
            a, b = maker(ours), maker(theirs)
            train(DistributedDataParallel(ours), a, share, **options)
            train(theirs, b, lambda x: x, **options)
            assert_same(ours, theirs)
            torch.testing.assert_close(a.thresholds(), b.thresholds(), rtol=1e-9, atol=0)


@check
def ddp_tied_frozen_late_intermittent(folder: Path) -> None:
    for maker in MAKERS.values():
        ours, theirs = Awkward(), Awkward()
        a, b = maker(ours), maker(theirs)
        train(DistributedDataParallel(ours, find_unused_parameters=True), a, share)
        train(theirs, b, lambda x: x)
        assert_same(ours, theirs)
        steps = [
            [optimizer.state.get(p, {}).get("n", 0) for p in net.parameters()]
            for net, optimizer in ((ours, a), (theirs, b))
        ]
        assert steps[0] == steps[1]
        assert set(steps[0]) == {0, 3, STEPS - 3, STEPS}


@check
def ddp_compiled(folder: Path) -> None:
    for compiled in ("model", "step", "both"):
        for name in ("momentum", "plan", "adam"):
            torch._dynamo.reset()
            ours, theirs = plain(), plain()
            a, b = MAKERS[name](ours), MAKERS[name](theirs)
            model: Any = DistributedDataParallel(ours)
            if compiled != "step":
                model = torch.compile(model, backend="aot_eager")
            step = torch.compile(a.step, backend="aot_eager") if compiled != "model" else None
            train(model, a, share, step=step)
            train(theirs, b, lambda x: x)
            assert_same(ours, theirs)


@check
def ddp_with_a_scaler(folder: Path) -> None:
    """A step that overflows on one process is skipped by all and not counted."""
    nets = plain(), plain()
    optimizers = [MAKERS["plan"](net) for net in nets]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    model = DistributedDataParallel(nets[0])
    for n in range(STEPS):
        optimizers[0].zero_grad()
        loss = model(share(batch(n))).square().mean()
        if n == 3 and dist.get_rank() == 0:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizers[0])
        scaler.update()
        if n != 3:
            train(nets[1], optimizers[1], lambda x: x, range(n, n + 1))
    assert_same(*nets)
    plan = optimizers[0].param_groups[0]["plan"]
    assert plan.step == STEPS - 1


@check
def zero_redundancy(folder: Path) -> None:
    """On four processes most ranks have no parameter of a group, and some have none."""
    for kind, options in (
        (GRDA, {"lr": 0.1, "c": 0.05, "momentum": 0.9}),
        (AdamGRDA, {"lr": 0.01, "c": 0.5}),
    ):
        ours, theirs = plain()[0], plain()[0]
        groups = [
            [{"params": [net.weight]}, {"params": [net.bias], "c": 0.0}] for net in (ours, theirs)
        ]
        a = ZeroRedundancyOptimizer(groups[0], optimizer_class=kind, **options)
        train(DistributedDataParallel(ours), a, share)
        b = kind(groups[1], **options)
        train(theirs, b, lambda x: x)
        assert_same(ours, theirs)
        a.consolidate_state_dict(0)
        if dist.get_rank() == 0:
            saved = a.state_dict()["state"]
            assert [saved[i]["g"] for i in (0, 1)] == [b.thresholds()[0], 0.0]


@check
def post_local_sgd(folder: Path) -> None:
    """After local steps, every process continues from the average of the weights."""
    torch.manual_seed(0)
    net = nn.Linear(20, 6, bias=False).double()
    locals_ = [
        AdoptingOptimizer(net.weight.detach().clone(), lr=0.1, c=0.05)
        for _ in range(dist.get_world_size())
    ]
    averager = PeriodicModelAverager(period=3, warmup_steps=2)
    optimizer = PostLocalSGDOptimizer(GRDA(net.parameters(), lr=0.1, c=0.05), averager)
    for n in range(9):
        optimizer.zero_grad()
        net(share(batch(n))).square().mean().backward()
        optimizer.step()
        for local, x in zip(locals_, batch(n).chunk(dist.get_world_size())):
            w = local.w.clone().requires_grad_()
            (x @ w.T).square().mean().backward()
            local.step(w.grad)
        if n >= 2 and (n - 2) % 3 == 0:
            mean = torch.stack([local.w for local in locals_]).mean(0)
            for local in locals_:
                local.w.copy_(mean)
        own = locals_[dist.get_rank()].w
        torch.testing.assert_close(net.weight.detach(), own, rtol=1e-9, atol=1e-12)
    assert optimizer.optim.thresholds()[0] > 0


def sharded_pair(net: nn.Module, **options: Any) -> tuple[nn.Module, nn.Module]:
    sharded = copy.deepcopy(net)
    for module in sharded.children():
        if isinstance(module, nn.Linear):
            fully_shard(module, **options)
    return fully_shard(sharded, **options), net


@check
def fsdp(folder: Path) -> None:
    for _, net, maker in pairs():
        ours, theirs = sharded_pair(net)
        a, b = maker(ours), maker(theirs)
        train(ours, a, share, clip=0.05)
        train(theirs, b, lambda x: x, clip=0.05)
        assert_same(ours, theirs)
        assert sparsity_report(ours).zeros == sparsity_report(theirs).zeros
        if (plan := a.param_groups[0]["plan"]) is not None:
            weights = [p for p in whole_tensors(ours) if p.dim() > 1]
            zeros = sum(int((w == 0).sum()) for w in weights)
            assert zeros == round(0.7 * sum(w.numel() for w in weights))
            thresholds = [None] * dist.get_world_size()
            dist.all_gather_object(thresholds, plan.threshold)
            assert len(set(thresholds)) == 1


@check
def fsdp_tied_frozen_late_intermittent(folder: Path) -> None:
    for maker in MAKERS.values():
        ours, theirs = fully_shard(Awkward()), Awkward()
        train(ours, maker(ours), share)
        train(theirs, maker(theirs), lambda x: x)
        assert_same(ours, theirs)


@check
def fsdp_compiled(folder: Path) -> None:
    for name in ("momentum", "plan", "adam"):
        torch._dynamo.reset()
        ours, theirs = sharded_pair(plain())
        a = MAKERS[name](ours)
        train(ours, a, share, step=torch.compile(a.step, backend="aot_eager"))
        train(theirs, MAKERS[name](theirs), lambda x: x)
        assert_same(ours, theirs)


@check
def fsdp_mixed_precision(folder: Path) -> None:
    """bfloat16 compute, float32 weights: the gradients are those of bfloat16 copies."""
    for maker in MAKERS.values():
        net = plain().float()
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        ours, theirs = sharded_pair(net, mp_policy=policy)
        a, b = maker(ours), maker(theirs)
        for n in range(STEPS):
            x = batch(n, torch.bfloat16)  # the same on all processes, so the mean is exact
            a.zero_grad()
            ours(x).float().square().mean().backward()
            a.step()
            half = copy.deepcopy(theirs).bfloat16()
            half(x).float().square().mean().backward()
            for p, q in zip(theirs.parameters(), half.parameters()):
                p.grad = q.grad.float()
            b.step()
        assert_same(ours, theirs, tolerance=1e-6)


@check
def fsdp_adopts(folder: Path) -> None:
    """The best checkpoint is loaded again, then weights are clamped in place."""
    for name in ("law", "momentum", "adam"):
        ours, theirs = sharded_pair(plain())
        a, b = MAKERS[name](ours), MAKERS[name](theirs)
        best: list[Any] = []
        for n in range(STEPS):
            for net, optimizer, part in ((ours, a, share), (theirs, b, lambda x: x)):
                train(net, optimizer, part, range(n, n + 1))
                if n == 1:
                    best.append(copy.deepcopy(net.state_dict()))
                if n == 4:
                    net.load_state_dict(best[net is theirs])
                if n == 6:
                    with torch.no_grad():
                        for p in net.parameters():
                            getattr(p, "_local_tensor", p).clamp_(-0.05, 0.05)
        assert_same(ours, theirs)


@check
def tensor_parallel(folder: Path) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for ours, theirs, maker in pairs():
        parallelize_module(ours, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        train(ours, maker(ours), lambda x: x)
        train(theirs, maker(theirs), lambda x: x)
        assert_same(ours, theirs)


def mesh_of_four() -> Any:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))


@check
def sharded_in_two_dimensions(folder: Path) -> None:
    """FSDP2 across pairs, tensor parallel within, on four processes."""
    mesh = mesh_of_four()
    for ours, theirs, maker in pairs():
        parallelize_module(ours, mesh["inner"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(ours, mesh=mesh["outer"])
        train(ours, maker(ours), lambda x: x.chunk(2)[mesh["outer"].get_local_rank()])
        train(theirs, maker(theirs), lambda x: x)
        assert_same(ours, theirs)


@check
def sharded_and_replicated(folder: Path) -> None:
    """FSDP2 within pairs, replicas across, on four processes."""
    for _, net, maker in pairs():
        ours, theirs = sharded_pair(net, mesh=mesh_of_four())
        train(ours, maker(ours), share)
        train(theirs, maker(theirs), lambda x: x)
        assert_same(ours, theirs)


@check
def distributed_checkpoint(folder: Path) -> None:
    """A checkpoint saved by two processes is loaded by four."""
    for name, maker in MAKERS.items():
        ours, theirs = sharded_pair(plain())
        optimizer = maker(ours)
        if dist.get_world_size() == 2:
            train(ours, optimizer, share, range(SAVED_AFTER))
            save_checkpoint(ours, optimizer, folder / name)
        else:
            load_checkpoint(ours, optimizer, folder / name)
        train(ours, optimizer, share, range(SAVED_AFTER, STEPS))
        train(theirs, maker(theirs), lambda x: x)
        assert_same(ours, theirs, tolerance=1e-8)


def save_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def main(folder: Path, names: list[str]) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / f'meeting point of {world}'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=300),
    )
    for name in names:
        problem = ""
        try:
            CHECKS[name](folder)
        except Exception:
            problem = traceback.format_exc()
        (folder / f"{name}.{rank}.of.{world}").write_text(problem)
        if problem:
            print(name, rank, problem, flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that shuts down


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
