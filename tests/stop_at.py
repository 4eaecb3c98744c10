"""A signal at a chosen step."""

import signal

from dirprune.train.display import Displays


class StopAt(Displays):
    """Interrupts the run that shows itself here after a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, step: int) -> None:
        if step == self.at:
            signal.raise_signal(signal.SIGINT)
