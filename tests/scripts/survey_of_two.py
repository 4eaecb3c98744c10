"""Run by test_survey.py under torchrun: the command, which a signal to one process breaks off."""

import os
import runpy
import signal

from dirprune.survey.display import Display

LOOK = 80
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
    runpy.run_module("dirprune", run_name="__main__")
