"""A call in a process of its own: its peak memory is its own, and it ends with its caller."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dirprune._support.user_errors import is_user_error
from dirprune.train.errors import Diverged, Interrupted, OutOfMemory, Stopped
from dirprune.train.stopping import StopSignals

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class ProcessDied(ChildProcessError, RuntimeError):
    """The process of a call ended without a result, for example because memory ran out."""


def run_isolated(call: Callable[..., object], *args: Any, out: Path) -> None:
    """Call a function in a fresh process and wait for it.

    A run that diverges is no failure here: its folder says so. SIGINT and SIGTERM are passed on
    as SIGTERM: the run then finishes its step and saves. If this process is killed, the other one
    ends too.

    Args:
        call: A module's function; its result is not passed back.
        args: Its arguments.
        out: Named if the call is stopped.

    Raises:
        Stopped: If a signal came.
        ValueError: As the call raised it, like every other error that a user can fix.
        ProcessDied: If the process ended in another way.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    lifeline, held_end = context.Pipe(duplex=False)  # held_end closes when this process ends
    process = context.Process(target=_serve, args=(sender, lifeline, call, args))
    with StopSignals() as stop, held_end:
        with _held_back():
            process.start()
        sender.close()
        lifeline.close()
        stopping = False
        try:
            while process.is_alive():
                if stop.received and not stopping:
                    process.terminate()
                    stopping = True
                process.join(0.1)
        finally:
            if process.is_alive():  # a second signal is not waited for
                process.kill()
    if stop.received:
        raise Stopped(out)
    try:
        problem: BaseException | None = receiver.recv()
    except EOFError:
        raise ProcessDied(
            f"a process of {out} ended with exit status {process.exitcode}, perhaps because "
            "memory ran out: give the same command again to continue"
        ) from None
    if problem is not None:
        raise problem


def _context() -> Any:
    """Processes that come from a clean one in which the imports are done, where there is such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dirprune.train.loop"])
    return context


@contextmanager
def _held_back() -> Iterator[None]:
    """Let signals wait while a process starts.

    Ctrl-C reaches the clean process as well, which would die of it in the midst of its imports;
    so it and its children start with signals held back.
    """
    if not hasattr(signal, "pthread_sigmask"):  # nor is there a clean process
        yield
        return
    resource_tracker.ensure_running()  # which would let them through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    sender: Connection, lifeline: Connection, call: Callable[..., object], args: tuple[Any, ...]
) -> None:
    threading.Thread(target=_end_with_caller, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller gets it too, and sends SIGTERM
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    problem: BaseException | None = None
    try:
        call(*args)
    except (Diverged, Interrupted):
        pass
    except Exception as error:
        if not (isinstance(error, OutOfMemory) or is_user_error(error)):
            raise  # a bug: the traceback is printed here
        problem = error
    sender.send(problem)


def _end_with_caller(lifeline: Connection) -> None:
    """Wait until the caller's end of the pipe is closed, however the caller ended."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)  # SIGTERM would let the run save first
