"""A display that interrupts a run at a chosen step."""

import signal

from dirprune.train.display import Displays


class StopAt(Displays):
    """Interrupt the displayed run after a given step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, step: int) -> None:
        if step == self.at:
            signal.raise_signal(signal.SIGINT)
