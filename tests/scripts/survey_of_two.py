"""Script of test_survey.py, run in two processes; one of them gets a signal and both stop."""

import os
import runpy
import signal

from dirprune import cli
from dirprune.survey.display import SurveyDisplay

LOOK = 120
"""Number of progress reports after which the second process gets the signal."""

if __name__ == "__main__":
    looks, check = 0, SurveyDisplay.check

    def checked(self: SurveyDisplay) -> None:
        global looks
        looks += 1
        if looks == LOOK and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
        check(self)

    SurveyDisplay.check = checked  # type: ignore[method-assign]
    print("status", cli.main(), flush=True)
    runpy.run_module("dirprune", run_name="__main__")
