"""Products over a network that was captured as a list of steps."""
