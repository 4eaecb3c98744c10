"""Run by test_survey.py under torchrun: the command, broken off by a signal to one process."""

import os
import signal
import sys

from dirprune import cli
from dirprune.survey.display import Display

LOOK = 120
"""At which look at progress the second process gets the signal."""

if __name__ == "__main__":
    looks, check = 0, Display.check

    def checked(self: Display) -> None:
        global looks
        looks += 1
        if looks == LOOK and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
        check(self)

    Display.check = checked  # type: ignore[method-assign]
    print("status", cli.main(), flush=True)
    sys.exit(cli.main())
