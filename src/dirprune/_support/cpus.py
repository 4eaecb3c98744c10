"""The processors that this process may use."""

import os


def num_cpus() -> int:
    """Return how many CPUs this process may run on, which a container or taskset may limit."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
