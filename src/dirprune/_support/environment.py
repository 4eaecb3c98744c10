"""Versions, commit and hardware, for the records of measurements."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from dirprune import __version__
from dirprune._support.processor import processor_name

_PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "safetensors")


def environment(device: str) -> dict[str, Any]:
    """Describe the program and the machine of a measurement.

    Args:
        device: Type of the device that computes, such as ``"cpu"`` or ``"cuda"``.

    Returns:
        The keys ``command``, ``versions``, ``commit``, ``hardware`` and ``started``.
    """
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {
            "python": platform.python_version(),
            "dirprune": __version__,
            **{package: _version(package) for package in _PACKAGES},
        },
        "commit": _commit(),
        "hardware": {
            "cpu": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),  # type: ignore[no-untyped-call]
        },
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    """Return a package's version, or None for a source tree that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of this source tree, or None for an installed copy."""
    package = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = done.stdout.splitlines()
    return commit if Path(top, "src", "dirprune").resolve() == package else None
