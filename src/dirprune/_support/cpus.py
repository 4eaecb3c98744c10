"""The processors that this process may use."""

import os


def num_cpus() -> int:
    """Return the number of CPUs of this process, which a container or taskset may limit."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
