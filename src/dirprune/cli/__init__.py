"""The command line: the only place that combines siblings."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0; 1 if training diverged; 2 for an error of the user, of the data or of
        the disk; 70 for a bug of dirprune; 130 if interrupted; 141 if the reader of the output
        has gone.
    """
    try:
        from dirprune.cli.program import run
    except KeyboardInterrupt:  # the imports take a moment
        return 130
    return run(arguments)


__all__ = ["main"]
