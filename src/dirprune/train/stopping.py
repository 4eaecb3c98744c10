"""Stopping a run from outside without losing what it has done."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Remembers SIGINT and SIGTERM while it is entered; a second one acts as it did before.

    Signals reach the main thread only, so elsewhere this does nothing.

    Attributes:
        received: Whether there was one.

    Example:
        >>> with StopSignals() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        >>> stop.received
        True
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Start to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue  # a background job: whoever started it wants it to continue
                # None means a handler that was not set from Python.
                self._before[number] = signal.signal(number, self._receive) or signal.SIG_DFL
        return self

    def __exit__(self, *error: object) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, self._before[number])
