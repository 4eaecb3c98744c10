"""Parse the command line, run the command, and report errors in one line with an exit status."""

import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dirprune
from dirprune._support.user_errors import is_user_error
from dirprune.cli.parsing import UsageError, parse
from dirprune.cli.printing import is_first
from dirprune.train.errors import Diverged, Interrupted, OutOfMemory

REPORT = "this is a bug in dirprune: please report it with the traceback above"


def run(arguments: list[str] | None, interrupted: Callable[[], bool]) -> int:
    """Run the command line; :func:`dirprune.cli.main` lists the exit statuses.

    Args:
        arguments: As for :func:`dirprune.cli.main`.
        interrupted: Whether SIGINT has come.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words = [word for word in given if word != "--debug"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # paths may not be valid text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def command() -> None:
        if "--version" in words:
            print(f"dirprune {dirprune.__version__}")
        else:
            parse(words)()

    with _messages_shown():
        return _guarded(command, interrupted, debug=words != given)


def _guarded(command: Callable[[], None], interrupted: Callable[[], bool], *, debug: bool) -> int:
    """Run a command, print its error if any, and return the exit status."""
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if interrupted() and not isinstance(error, (Diverged, Interrupted, SystemExit)):
            error = KeyboardInterrupt().with_traceback(error.__traceback__)
        return _report(error, debug)
    return 0


def _report(error: BaseException, debug: bool) -> int:
    """Print an error; return its exit status."""
    if isinstance(error, SystemExit):  # after --help
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, Diverged):
        message, status = str(error), 1
    elif isinstance(error, Interrupted):  # raised in all processes, printed by the first
        message, status = str(error) if is_first() else "", 130
    elif isinstance(error, KeyboardInterrupt):
        message, status = "interrupted; saved files are kept", 130
    elif isinstance(error, OutOfMemory):
        message, status = str(error), 2
    elif _is_out_of_memory(error):
        message, status = (
            f"out of memory ({_first_line(error)}): give a smaller --batch-size, more "
            "--accumulation or a smaller model",
            2,
        )
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        # errors of files have a message with the path and no errno
        message, status = (
            f"the output cannot be printed ({error.strerror}): make room, or print it elsewhere",
            2,
        )
    elif isinstance(error, UsageError) or is_user_error(error):
        message, status = _user_message(error), 2
    else:
        message, status = f"{type(error).__name__}: {_first_line(error)}; {REPORT}", 70
        debug = True
    with suppress(OSError):  # standard error may be full too
        if debug:
            traceback.print_exception(error)
        if message:
            print(f"dirprune: {' '.join(message.split())}", file=sys.stderr)
    return status


def _user_message(error: BaseException) -> str:
    """The message of a user error; of an operating system's error, without its number."""
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on the CPU, or torch on a GPU ran out of memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


class _Messages(logging.Handler):
    """Prints log records: information on standard output, warnings on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if record.levelno < logging.WARNING:
            print(message)
        else:
            print(f"dirprune: {record.levelname.lower()}: {message}", file=sys.stderr)


def _warning_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a warning in one line, without the place in the source."""
    return f"dirprune: warning: {' '.join(str(message).split())}\n"


@contextmanager
def _messages_shown() -> Iterator[None]:
    logger, handler = logging.getLogger("dirprune"), _Messages()
    before, format_warning = logger.level, warnings.formatwarning
    warnings.formatwarning = _warning_line
    logger.setLevel(logging.INFO if is_first() else logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        warnings.formatwarning = format_warning
