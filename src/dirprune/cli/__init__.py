"""The command line. Only this package combines all other packages."""

from dirprune.cli.interrupts import noting_interrupts


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0; 1 if training diverged; 2 for an error of the user, of the data or of
        the disk; 70 for a bug of dirprune; 130 if interrupted; 141 if the reader of the output
        has gone.
    """
    with noting_interrupts() as interrupted:
        try:
            from dirprune.cli.program import run
        except BaseException:  # the imports take a moment
            if interrupted():
                return 130
            raise
        return run(arguments, interrupted)


__all__ = ["main"]
