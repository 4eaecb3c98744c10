"""Threads and memory of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dirprune._support.cpus import num_cpus
from dirprune.train.config import TrainConfig
from dirprune.train.errors import OutOfMemory
from dirprune.train.session import Session

FLOPS_PER_THREAD = 1e8
"""Operations of a batch's forward pass per thread: a few milliseconds of work."""


@contextmanager
def limited_threads(session: Session) -> Iterator[None]:
    """Limit torch to as many threads as the run can use.

    With too many threads, a small network spends its time waiting for them after every operation,
    and slows down other programs.

    Args:
        session: Its ``config.threads`` sets the number; by default it follows from the size of
            the network.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(session.config.threads or _useful_threads(session, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _useful_threads(session: Session, most: int) -> int:
    if session.device.type != "cpu":
        return most
    per_batch = forward_flops(session) * min(session.config.batch_size, len(session.data.train))
    return min(most, num_cpus(), max(2, round(per_batch / FLOPS_PER_THREAD)))


@torch.no_grad()
def forward_flops(session: Session) -> float:
    """Count the floating-point operations of one image's forward pass."""
    net: nn.Module = session.net
    shape = (1, session.data.channels, *session.data.size)
    images, _ = session.place(torch.zeros(shape), torch.zeros(1, dtype=torch.int64))
    with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        net.eval()
        net.forward(images)  # not the compiled call
        net.train()
    return float(counter.get_total_flops())


@contextmanager
def naming_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Replace out-of-memory errors by one that names the options which save memory.

    Raises:
        OutOfMemory: Instead of the errors of torch and Python.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not short and "can't allocate memory" not in text and "out of memory" not in text:
            raise
        raise OutOfMemory(
            f"out of memory with {config.model} and batch_size {config.batch_size}: use a smaller "
            f"batch_size, more accumulation (now {config.accumulation}), or a smaller width"
        ) from error
