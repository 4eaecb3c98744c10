"""Arithmetic in the full precision of float32, independent of the global flags."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def true_float32() -> Iterator[None]:
    """Disable TF32, bfloat16 inside float32 operations, and autocast.

    TF32 keeps 10 of the 23 mantissa bits of float32. That is enough for training, but Hessian
    products are then several percent off, and two programs cannot be compared. The context
    restores all flags when it ends. It also works as a decorator.

    Example:
        >>> torch.backends.cuda.matmul.fp32_precision = "tf32"
        >>> with true_float32():
        ...     torch.backends.cuda.matmul.fp32_precision
        'ieee'
        >>> torch.backends.cuda.matmul.fp32_precision
        'tf32'
        >>> torch.backends.cuda.matmul.fp32_precision = "none"
    """
    backends: Any = torch.backends
    settings = (
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    )
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before):
            # "none" inherits the backend's setting, so write the flag only if that differs.
            setting.fp32_precision = "none"
            if setting.fp32_precision != precision:
                setting.fp32_precision = precision
