"""The processes of torchrun, that share the work of one survey."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")


@contextmanager
def together(out: Path) -> Iterator[Path]:
    """Join the processes that torchrun started; without it there is one, and nothing happens.

    Every process goes through the whole survey, and products and points are shared out. All read
    what an earlier start has left, the first one alone writes there: each of the others goes on in
    a copy, which is deleted in the end.

    Args:
        out: The survey's folder; all processes must see it.

    Returns:
        The folder in which this process reads and writes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Of tensors on CPU and GPU, each by what suits it.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    folder: AbstractContextManager[Path] = nullcontext(out) if place()[0] == 0 else _copy(out)
    with folder as mine:
        if place()[1] > 1:
            dist.barrier()  # all have read before one writes
        yield mine


def place() -> tuple[int, int]:
    """Return this process's number and the number of all."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    found = torch.tensor(float(flag))
    if place()[1] > 1:
        dist.all_reduce(found)
    return bool(found)


def of_first(value: Value) -> Value:
    """Return the first process's value in all of them."""
    found = [value]
    if place()[1] > 1:
        dist.broadcast_object_list(found)
    return found[0]


@contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    with TemporaryDirectory() as temporary:
        copied = Path(temporary, folder.name)
        if folder.exists():
            shutil.copytree(folder, copied)
        yield copied
