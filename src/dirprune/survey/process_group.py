"""One survey in several processes: who reads and writes where."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from dirprune._support.lock import locked
from dirprune._support.processes import call_on_rank0, rank_and_world


@contextmanager
def together(out: Path) -> Iterator[Path]:
    """Join the processes that torchrun started; without it there is one, and nothing happens.

    Every process goes through the whole survey, and products and points are shared out. All read
    what an earlier start has left, the first one alone writes there: each of the others goes on in
    a copy, which is deleted in the end.

    Args:
        out: The survey's folder; all processes must see it.

    Yields:
        The folder in which this process reads and writes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Of tensors on CPU and GPU, each by what suits it.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: give a folder for the landscape")
    folder: AbstractContextManager[Path] = (
        nullcontext(out) if rank_and_world()[0] == 0 else _copy(out)
    )
    with ExitStack() as stack:
        call_on_rank0(lambda: stack.enter_context(locked(out)))
        mine = stack.enter_context(folder)
        if rank_and_world()[1] > 1:
            dist.barrier()  # all have read before one writes
        yield mine


@contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    with TemporaryDirectory() as temporary:
        copied = Path(temporary, folder.name)
        if folder.exists():
            shutil.copytree(folder, copied)
        yield copied
