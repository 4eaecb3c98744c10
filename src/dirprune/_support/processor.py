"""The name of this machine's processor."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Return the processor's name, with family and model: they identify its generation."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    if "cpu family" not in fields or "model" not in fields:  # of ARM
        return fields["model name"]
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
