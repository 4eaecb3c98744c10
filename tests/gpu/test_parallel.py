"""GRDA under NCCL in one process: steps under DDP and FSDP2 equal those of a plain model."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dirprune import GRDA


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    device = torch.device("cuda", 0)
    dist.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=device
    )
    yield
    dist.destroy_process_group()


def train(model: nn.Module, steps: int = 5) -> GRDA:
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.05, momentum=0.9)
    for n in range(steps):
        generator = torch.Generator("cuda").manual_seed(n)
        x = torch.randn(8, 20, generator=generator, device="cuda")
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.filterwarnings("ignore")  # torch's own about process groups
@pytest.mark.parametrize("kind", ["ddp", "ddp with views", "fsdp2"])
def test_a_wrapped_model_trains_like_a_plain_one(kind: str, group: None) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(20, 31), nn.Tanh(), nn.Linear(31, 5)).cuda()
    wrapped = copy.deepcopy(plain)
    if kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        fully_shard(wrapped)
    else:
        wrapped = nn.parallel.DistributedDataParallel(
            wrapped, device_ids=[0], gradient_as_bucket_view=kind == "ddp with views"
        )
    a, b = train(plain), train(wrapped)
    assert a.thresholds() == b.thresholds()
    for p, q in zip(plain.parameters(), wrapped.parameters()):
        q = q.full_tensor() if hasattr(q, "full_tensor") else q
        torch.testing.assert_close(p.detach(), q.detach())
        assert (p == 0).any()
