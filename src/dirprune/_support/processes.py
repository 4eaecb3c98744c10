"""The processes of torchrun: which one this is, and what they agree on."""

from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and the number of all; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    found = torch.tensor(float(flag))
    if rank_and_world()[1] > 1:
        dist.all_reduce(found)
    return bool(found)


def of_first(value: Value) -> Value:
    """Return the first process's value in all of them."""
    found = [value]
    if rank_and_world()[1] > 1:
        dist.broadcast_object_list(found)
    return found[0]
