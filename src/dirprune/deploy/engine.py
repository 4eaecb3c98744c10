"""Runs a saved network on a CPU, fast because of its zeros: numpy in, numpy out, without torch."""

import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dirprune._support import native
from dirprune.deploy.file.container import read_file
from dirprune.deploy.file.encode import encode
from dirprune.deploy.graph.fold import fold
from dirprune.deploy.profile import LayerTime, Profile
from dirprune.deploy.tuned import TunedFile

Array = NDArray[np.float32]
_MOST_THREADS = 256


class Engine:
    r"""A network that is ready to run.

    Convolutions and linear layers multiply by the weights that are not zero and by no others, or
    by all of them where that is faster. BatchNorm, bias, activation and residual are part of the
    layer before. Several threads may call one engine, and several engines, at a time; a call does
    not hold Python's global lock.

    Zeros skip what they would multiply: where dense arithmetic would spread a NaN or an infinity
    of the input (0 times NaN is NaN), this one does not. ``check=True`` refuses such inputs.

    The environment variable ``DIRPRUNE_ISA`` (``portable``, ``avx2``, ``avx512``, ``neon``)
    forces an instruction set; results of two agree within rounding.

    Args:
        path: File that :func:`dirprune.deploy.save` wrote, with a network in it.
        threads: That a call may use, 1 to 256; all that this process may run on by default. Of a
            batch each takes images of its own, as long as there is one for every thread, and what
            is left they share; memory for activations grows with them, not with the batch.
        tune: At the first call with a batch of one kind (single images, or blocks of as many as
            a vector has lanes, alone on a thread or shared), choose how to compute each layer by
            timing, in less than two seconds. Without, the choice is fixed, and with it every bit
            of the result, for any number of threads.
        keep: Keep what tuning finds in ``PATH.tuned.json``, and take it from there at the next
            start: the first call is as fast as all others, and one file gives the same bits again.
            What another network or instruction set left there is written anew. Of another
            processor with the same instruction set it is used, but may be slower than it could:
            delete it there.
        check: Refuse inputs that are not finite.

    Raises:
        ValueError: If the file is damaged, has no network in it, threads is out of range, or
            ``keep`` is asked for without ``tune``.
        OSError: If it cannot be read.
        RuntimeError: If dirprune was installed without its C++ extension.

    Example:
        >>> import tempfile, torch
        >>> from dirprune.deploy import save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(torch.nn.Linear(3, 2), f"{folder}/model.dpz", torch.ones(2, 3))
        ...     engine = Engine(f"{folder}/model.dpz", threads=1)
        >>> engine(np.ones((5, 3), np.float32)).shape
        (5, 2)
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        *,
        tune: bool = True,
        keep: bool = False,
        check: bool = False,
    ) -> None:
        self._extension = _extension()
        if keep and not tune:
            raise ValueError("keep=True keeps what tuning finds: it needs tune=True")
        if threads is None:
            threads = min(_usable_cpus(), _MOST_THREADS)
        if not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"threads must be 1 to {_MOST_THREADS}, got {threads}")
        contents = read_file(path)
        if contents.graph is None:
            raise ValueError(
                f"{path} has weights and no network: save the model with example_inputs"
            )
        graph = fold(contents.graph)
        arrays = [np.ascontiguousarray(array) for array in graph.tensors.values()]
        self._program = self._extension.Program(encode(graph), arrays)
        self._threads, self._tune, self._check = threads, tune, check
        self._tuned = TunedFile(path, self._extension.chosen(), threads) if keep else None
        if self._tuned:
            self._tuned.load(self._program)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        return tuple(self._program.input_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one result, without the batch."""
        return tuple(self._program.output_shape)

    @property
    def threads(self) -> int:
        """How many a call may use."""
        return self._threads

    def __call__(self, x: Any) -> Array:
        r"""Run the network.

        Args:
            x: float32 with shape (batch, \*input_shape), batch at least 0: a numpy array, or
                anything with ``__dlpack__`` or ``__array__`` whose memory the CPU can read. What
                is not contiguous is copied.

        Returns:
            float32 with shape (batch, \*output_shape).

        Raises:
            TypeError: If x is no array, or not of float32.
            ValueError: If its shape is another one, or with ``check`` it is not finite.
            MemoryError: If the batch is too large; smaller ones still run.
        """
        result: Array = self._program.run(self._checked(x), self._threads, self._tune)
        if self._tuned:
            self._tuned.save(self._program)
        return result

    def profile(self, x: Any, repeats: int = 10) -> Profile:
        """Time every layer.

        Args:
            x: As in a call, with at least one sample.
            repeats: Runs, after a first one, of which each layer's fastest counts.

        Returns:
            A table.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call, or if x is empty.
        """
        x = self._checked(x)
        if not len(x):
            raise ValueError("an empty batch takes no time: give at least one sample")
        rows = self._program.profile(x, self._threads, self._tune, repeats)
        if self._tuned:
            self._tuned.save(self._program)
        total = sum(row[4] for row in rows) or 1.0
        layers = tuple(
            LayerTime(
                path,
                op,
                kernel,
                None if math.isnan(sparsity) else sparsity,
                ms,
                None if math.isnan(sparsity) else 1e3 * gflop / max(ms, 1e-9),
                ms / total,
            )
            for path, op, kernel, sparsity, ms, gflop in rows
        )
        return Profile(layers, len(x), self._threads, self._extension.chosen())

    def _checked(self, x: Any) -> Array:
        array = _as_array(x)
        if array.dtype != np.float32:
            raise TypeError(
                f"the engine computes in float32, got {array.dtype}: x.astype(numpy.float32)"
            )
        if array.ndim == 0 or array.shape[1:] != self.input_shape:
            needed = ", ".join(["batch", *map(str, self.input_shape)])
            raise ValueError(f"this network takes shape ({needed}), got {array.shape}")
        if self._check and not np.isfinite(array).all():
            raise ValueError("the input is not finite: zeros would hide where a NaN should spread")
        return np.ascontiguousarray(array)


def _as_array(x: Any) -> NDArray[Any]:
    if isinstance(x, np.ndarray):
        return x
    try:
        if hasattr(x, "__dlpack__"):
            return np.from_dlpack(x)
        if hasattr(x, "__array__"):
            return np.asarray(x)
    except (BufferError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"cannot read the input's memory: {reason}") from None
    raise TypeError(f"the input must be an array, got {type(x).__name__}: numpy.asarray(x)")


def _extension() -> ModuleType:
    extension = native.extension()
    if extension is None:
        raise RuntimeError(
            "Engine needs dirprune's C++ extension, which this installation lacks: install a "
            "C++20 compiler (GCC 11 or Clang 14 on), then pip install --force-reinstall "
            "--no-deps --no-cache-dir dirprune"
        )
    return extension


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
