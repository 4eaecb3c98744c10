"""Stopping a run by a signal without losing its progress."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Context that records SIGINT and SIGTERM; a second signal has its previous effect.

    Python delivers signals to the main thread only, so in other threads this does nothing.

    Attributes:
        received: Whether a signal was received.

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
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue  # a background job, started with the signal ignored
                # None means a handler that was not set from Python.
                self._before[number] = signal.signal(number, self._receive) or signal.SIG_DFL
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, self._before[number])
