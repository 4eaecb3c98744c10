"""Recording of SIGINT.

Python's own code catches KeyboardInterrupt in some places and raises something else: an interrupt
during the import of ``unicodedata`` comes out as a SyntaxError.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noting_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT was received since.

    SIGINT raises KeyboardInterrupt as before. Where it is ignored, or handled by the program that
    calls the command line, nothing changes.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
