"""The command line: the only place that combines siblings."""

from dirprune.cli.program import main

__all__ = ["main"]
