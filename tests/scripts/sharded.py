"""Run by test_sharded.py under torchrun: GRDA on FSDP2's sharded parameters."""

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from dirprune import GRDA, sparsity_report


def step(model: nn.Module, optimizer: GRDA, n: int) -> None:
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for options in ({}, {"momentum": 0.9}, {"foreach": True}):
        torch.manual_seed(0)
        whole = nn.Sequential(nn.Linear(20, 31), nn.Tanh(), nn.Linear(31, 5)).double()
        sharded = copy.deepcopy(whole)
        fully_shard(sharded, mesh=mesh)
        a = GRDA(whole.parameters(), lr=0.1, c=0.05, **options)
        b = GRDA(sharded.parameters(), lr=0.1, c=0.05, **options)
        for n in range(5):
            step(whole, a, n)
            step(sharded, b, n)
        # a new optimizer, restored through torch's distributed checkpointing
        c = GRDA(sharded.parameters(), lr=0.1, c=0.05, **options)
        set_optimizer_state_dict(sharded, c, get_optimizer_state_dict(sharded, b))
        assert c.thresholds() == b.thresholds() == a.thresholds()
        for n in range(5, 8):
            step(whole, a, n)
            step(sharded, c, n)
        c.reset_from_weights()
        step(sharded, c, 8)
        step(whole, a, 8)
        for p, q in zip(whole.parameters(), sharded.parameters()):
            full = q.detach().full_tensor()  # type: ignore[attr-defined]
            torch.testing.assert_close(p.detach(), full, rtol=1e-8, atol=1e-10)
        report = sparsity_report(sharded)
        assert (report.zeros, report.total) == (sparsity_report(whole).zeros, 811)
        assert any((p == 0).any() for p in whole.parameters())
    if dist.get_rank() == 0:
        print("same")
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an interpreter that shuts down


if __name__ == "__main__":
    main()
