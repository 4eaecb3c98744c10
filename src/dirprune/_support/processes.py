"""The processes of a distributed run: the rank of this process, and values all ranks agree on."""

import atexit
import functools
import gc
import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) without a group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def connect_after_restart(backend: str) -> None:
    """Connect the processes that torchrun has restarted (``--max-restarts``) on one node.

    The store of torchrun's agent outlives a restart, with the addresses of the earlier processes,
    to which torch would connect. So each restart uses its own names in the store. On several nodes
    this is not possible, because each agent counts its own restarts.

    Args:
        backend: As for :func:`torch.distributed.init_process_group`.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_one_node = os.environ.get("LOCAL_WORLD_SIZE") == str(world)
    if restarts == "0" or world == 1 or not on_one_node or dist.is_initialized():
        return
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=False
    )
    own = dist.PrefixStore(f"restart-{restarts}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=int(os.environ["RANK"]), world_size=world)


@functools.cache
def disconnect_at_exit() -> None:
    """Destroy the process group before the interpreter shuts down.

    A thread of gloo may hold the last reference to a tensor. If it drops that reference while the
    interpreter shuts down, the process aborts with "terminate called without an active exception".
    """
    atexit.register(_disconnect)


def _disconnect() -> None:
    gc.collect()  # the threads end with the last reference to the group, which DDP holds too
    if rank_and_world()[1] > 1:
        dist.destroy_process_group()


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank."""
    found = torch.tensor(float(flag))
    if rank_and_world()[1] > 1:
        dist.all_reduce(found)
    return bool(found)


def broadcast_from_rank0(value: T) -> T:
    """Return rank 0's value on every rank."""
    values = [value]
    if rank_and_world()[1] > 1:
        dist.broadcast_object_list(values)
    return values[0]


def call_on_rank0(function: Callable[[], T]) -> T:
    """Call a function only on rank 0, and return its value on every rank.

    Raises:
        Exception: The exception of the function, on every rank.
    """
    value: T | None = None
    error: Exception | None = None
    if rank_and_world()[0] == 0:
        try:
            value = function()
        except Exception as caught:
            error = caught
    value, error = broadcast_from_rank0((value, error))
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
