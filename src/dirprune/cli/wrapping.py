"""Help that fits into the terminal: tyro wraps its tables, but neither prose nor the usage."""

import re
import shutil
import textwrap
from typing import Any, TextIO


class Wrapping:
    """A stream that wraps lines of prose at spaces, to the width of the terminal.

    Args:
        stream: The stream that is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text whose lines are complete."""
        return self.stream.write("\n".join(map(_wrapped, text.split("\n"))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _wrapped(line: str) -> str:
    """Wrap a line, unless it is short or belongs to a table."""
    width = shutil.get_terminal_size().columns
    if len(line) <= width or line[0] in "│╭╰":
        return line
    if line.startswith("usage:"):
        line = re.sub(r",(?=\w)", ", ", line)
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
