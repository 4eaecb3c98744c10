"""A call in a process of its own, so that its peak memory is its own and signals reach it."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dirprune.train.errors import Diverged, Interrupted, OutOfMemory, Stopped
from dirprune.train.stopping import StopSignals

_STOPPING = (signal.SIGINT, signal.SIGTERM)
# What a call may raise for good reasons: told to the caller, who knows what to do.
_PASSED_ON = (ValueError, TypeError, OSError, ImportError, OutOfMemory)


def run_isolated(call: Callable[..., object], *args: Any, out: Path) -> None:
    """Call a function in a fresh process and wait for it.

    A run that diverges is no failure here: its folder says so. SIGINT and SIGTERM are passed on
    as SIGTERM, upon which a run finishes its step and saves.

    Args:
        call: A module's function; its result is not passed back.
        args: Its arguments.
        out: Named if the call is stopped.

    Raises:
        Stopped: If a signal came.
        ValueError: As the call raised it; so are TypeError, OSError and ImportError.
        RuntimeError: If the process died of something else.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, call, args))
    with StopSignals() as stop:
        with _held_back():
            process.start()
        sender.close()
        told = False
        try:
            while process.is_alive():
                if stop.received and not told:
                    process.terminate()
                    told = True
                process.join(0.1)
        finally:
            if process.is_alive():  # a second signal is not waited for
                process.kill()
    if stop.received:
        raise Stopped(out)
    try:
        problem: BaseException | None = receiver.recv()
    except EOFError:
        raise RuntimeError(
            f"a process of {out} died with exit status {process.exitcode}: is there enough "
            "memory? give the same command again to go on"
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


def _serve(sender: Connection, call: Callable[..., object], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller gets it too, and sends SIGTERM
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    problem: BaseException | None = None
    try:
        call(*args)
    except (Diverged, Interrupted):
        pass
    except _PASSED_ON as error:
        problem = error
    sender.send(problem)
