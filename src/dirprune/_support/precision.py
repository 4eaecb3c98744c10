"""Arithmetic in the full precision of float32, whatever the global flags allow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def true_float32() -> Iterator[None]:
    """Compute without TF32, without bfloat16 inside of float32 and without autocast.

    TF32 keeps 10 of float32's 23 bits of mantissa. That is enough to train, but a product with a
    Hessian is then several percent off, and a comparison of two programs says nothing. The context
    restores all flags when it ends, and serves as a decorator too.

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
            # "none" inherits from the backend's setting: written only where that differs.
            setting.fp32_precision = "none"
            if setting.fp32_precision != precision:
                setting.fp32_precision = precision
