"""The available memory of a device."""

import psutil
import torch


def available_memory(device: torch.device) -> int:
    """Return the available bytes of a device, including memory cached by torch."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return int(psutil.virtual_memory().available)  # type: ignore[no-untyped-call]
