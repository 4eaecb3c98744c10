"""Every command: a function whose arguments are its options."""

from collections.abc import Callable

from dirprune.cli.deployment import bench, export
from dirprune.cli.figures import figures
from dirprune.cli.inspection import landscape, report
from dirprune.cli.training import compare, demo, train, tune

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "compare": compare,
    "tune": tune,
    "landscape": landscape,
    "report": report,
    "figures": figures,
    "export": export,
    "bench": bench,
    "demo": demo,
}
"""Every command, by its name on the command line."""
