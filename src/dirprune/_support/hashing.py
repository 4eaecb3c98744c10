"""Hashing tensors by their values."""

from typing import Any

import torch
from torch import Tensor


def hash_tensor(hashed: Any, tensor: Tensor) -> None:
    """Add a tensor's dtype, shape and values to a hash.

    Args:
        hashed: A hash of :mod:`hashlib`.
        tensor: On any device and in any memory format.
    """
    hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    hashed.update(values.numpy().data)
