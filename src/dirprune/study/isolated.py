"""A function call in a separate process, with its own peak memory, that ends with its caller."""

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
    """Call a function in a new process and wait for it.

    A run that diverges does not raise; its folder records it. SIGINT and SIGTERM are forwarded as
    SIGTERM, so that the run finishes its step and saves. If this process is killed, the new
    process ends too.

    Args:
        call: A function of a module; its result is discarded.
        args: Its arguments.
        out: The folder that a message names if the call is stopped.

    Raises:
        Stopped: If a signal was received.
        ValueError: If the call raised it; other user errors are passed on as well.
        ProcessDied: If the process ended without a result.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    lifeline, held_end = context.Pipe(duplex=False)  # held_end closes when this process ends
    process = context.Process(target=_serve, args=(sender, lifeline, dict(os.environ), call, args))
    with StopSignals() as stop, held_end:
        with _signals_blocked():
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
            if process.is_alive():  # after a second signal
                process.kill()
    if stop.received:
        raise Stopped(out)
    try:
        problem: BaseException | None = receiver.recv()
    except EOFError:
        raise ProcessDied(
            f"a process of {out} ended with exit status {process.exitcode}, perhaps because "
            "memory ran out: run the same command again to continue"
        ) from None
    if problem is not None:
        raise problem


def _context() -> Any:
    """A context that forks from a clean process with the imports done, if the platform can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dirprune.train.loop"])
    return context


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while a process starts.

    Ctrl-C is also sent to the fork server, which would die during its imports. So the fork server
    and its children start with signals blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):  # then there is no fork server either
        yield
        return
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    sender: Connection,
    lifeline: Connection,
    environment: dict[str, str],
    call: Callable[..., object],
    args: tuple[Any, ...],
) -> None:
    os.environ.clear()  # the fork server has the variables of the time when it started
    os.environ.update(environment)
    threading.Thread(target=_end_with_caller, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller receives it and sends SIGTERM
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    problem: BaseException | None = None
    try:
        call(*args)
    except (Diverged, Interrupted):
        pass
    except Exception as error:
        if not (isinstance(error, OutOfMemory) or is_user_error(error)):
            raise  # a bug: print its traceback
        problem = error
    sender.send(problem)


def _end_with_caller(lifeline: Connection) -> None:
    """Wait until the caller's end of the pipe is closed, then end this process."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)  # after SIGTERM the run would first save
