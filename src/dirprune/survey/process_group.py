"""A survey in one process or several, and the lock of its folder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from dirprune._support.lock import locked
from dirprune._support.processes import (
    call_on_rank0,
    connect_after_restart,
    disconnect_at_exit,
    rank_and_world,
)


@contextmanager
def process_group(out: Path) -> Iterator[Path]:
    """Connect the processes of torchrun, if there are several, and lock the survey's folder.

    Every process executes the whole survey; products and points are divided among them. All read
    the results of an earlier start. Only rank 0 writes to the folder; every other rank works in a
    copy, which is deleted at the end.

    Args:
        out: The survey's folder; all processes need access to it.

    Yields:
        The folder in which this process reads and writes.

    Raises:
        FolderInUse: If another survey is writing the folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # One backend for tensors on the CPU and one for tensors on GPUs.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        connect_after_restart(backend)
        if not dist.is_initialized():
            dist.init_process_group(backend)
        disconnect_at_exit()
    folder: AbstractContextManager[Path] = (
        nullcontext(out) if rank_and_world()[0] == 0 else _copy(out)
    )
    with ExitStack() as stack:
        call_on_rank0(lambda: stack.enter_context(locked(out)))
        mine = stack.enter_context(folder)
        if rank_and_world()[1] > 1:
            dist.barrier()  # all ranks read before rank 0 writes
        yield mine


@contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    with TemporaryDirectory() as temporary:
        copied = Path(temporary, folder.name)
        if folder.exists():
            shutil.copytree(folder, copied, ignore=shutil.ignore_patterns(".*"))
        yield copied
