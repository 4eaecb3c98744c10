"""Parse, call, and turn what goes wrong into one line and an exit status."""

import io
import sys
from contextlib import redirect_stderr
from importlib.metadata import version

from dirprune.cli.commands import is_first
from dirprune.cli.parsing import parse, unboxed
from dirprune.train.errors import Diverged, Interrupted, OutOfMemory


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        The exit status: 0; 1 if training diverged; 2 for a mistake in the command, the data or
        the disk, told in one line; 130 if interrupted.
    """
    complaint = io.StringIO()
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"dirprune {version('dirprune')}")
        return 0
    try:
        with redirect_stderr(complaint):
            command = parse(words)
    except SystemExit as stop:
        return _fail(unboxed(complaint.getvalue(), words), 2) if stop.code else 0
    except (ValueError, TypeError) as problem:
        return _fail(problem, 2)
    try:
        command()
    except Diverged as problem:
        return _fail(problem, 1)
    except Interrupted as problem:  # in all processes at once
        return _fail(problem, 130) if is_first() else 130
    except KeyboardInterrupt:
        return _fail("interrupted; what was saved is kept", 130)
    except (ValueError, TypeError, OSError, ImportError, OutOfMemory) as problem:
        return _fail(problem, 2)
    return 0


def _fail(problem: BaseException | str, status: int) -> int:
    print(f"dirprune: {' '.join(str(problem).split())}", file=sys.stderr)
    return status
