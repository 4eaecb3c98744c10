"""Fast inference of a saved sparse network on a CPU: numpy in, numpy out, without torch."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dirprune._support import native
from dirprune._support.files import writing
from dirprune.deploy.arrays import Array, as_array, as_float32, check_integers
from dirprune.deploy.file.container import Contents
from dirprune.deploy.file.limits import check_memory, memory_limit, readable
from dirprune.deploy.file.read import FileOrBytes, describe, file_bytes, read_contents
from dirprune.deploy.file.tuning import with_tuning
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.signature import Kind, pack, rebuild, split
from dirprune.deploy.profile import LayerTime, Profile
from dirprune.deploy.programs import Prepared, Programs
from dirprune.deploy.tuned import StoredTuning, TunedFiles, choose, tuned_modes

_MOST_THREADS = 256
_DTYPES: Mapping[Kind, type] = {"float": np.float32, "int": np.int64, "bool": np.bool_}
_FOLDING = 8
"""Bytes that folding may need for each weight of a layer: the original and a scaled copy."""


class Engine:
    r"""A network that is ready to run.

    Convolutions and linear layers multiply only by the nonzero weights, or by all weights if that
    is faster. BatchNorm, bias, activation and residual are computed together with the preceding
    layer.

    Several threads may call one engine, and several engines, at the same time; a call does not
    hold Python's global lock. Engines can be pickled and copied: the copy contains the file and
    the result of tuning. They work in the child of a fork.

    Multiplications by zero weights are skipped. So the engine does not spread a NaN or an infinity
    of the input as dense arithmetic does (0 times NaN is NaN). ``check=True`` refuses such inputs.
    Denormal numbers (magnitude below :math:`2^{-126}`) are treated as zero.

    The environment variable ``DIRPRUNE_ISA`` (``portable``, ``avx2``, ``avx512``, ``neon``)
    forces an instruction set. Results of two instruction sets agree within rounding.

    Args:
        path: File that :func:`dirprune.deploy.save` wrote, with a network in it: a path, the bytes
            of the file, or a file opened for reading bytes.
        threads: Number of threads of a call, 1 to 256; by default the CPUs that this process may
            use. A batch is split over threads by images, as long as there is one for every thread;
            each of the remaining images is computed by several threads. Memory for activations
            grows with the number of threads, not with the batch.
        tune: At the first call with a batch of one kind (single images, or blocks of as many
            images as a vector has lanes, on one thread or several), choose how to compute each
            layer by timing, in about half a second for each kind. Without tuning the choice is
            fixed, and the result is bit-identical for any number of threads.
        keep: Store the result of tuning in ``PATH.tuned.json`` and read it at the next start. Then
            the first call is as fast as later calls, and the same file gives bit-identical
            results. A tuning for another network or instruction set is replaced. A tuning from
            another processor with the same instruction set is used, but may not be the fastest:
            delete the file there. :meth:`save_tuned` instead puts the result into the network's
            file.
        check: Refuse inputs that are not finite.
        max_bytes: Bound on the memory that the file can make the engine use: for reading, for
            weights, and for the activations of one call. None is half of this machine's memory.

    Raises:
        ValueError: If the file is damaged, contains no network, or needs more memory; if threads
            is out of range; or if ``keep`` is given without ``tune`` or without a path.
        OSError: If the file cannot be read.
        RuntimeError: If dirprune was installed without its C++ extension (also an ImportError).

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
        path: FileOrBytes,
        threads: int | None = None,
        *,
        tune: bool = True,
        keep: bool = False,
        check: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self._extension = native.required_extension()
        if keep and not tune:
            raise ValueError("keep=True keeps the result of tuning: it needs tune=True")
        if threads is None:
            threads = min(_usable_cpus(), _MOST_THREADS)
        if not 1 <= threads <= _MOST_THREADS:
            raise ValueError(f"threads must be 1 to {_MOST_THREADS}, got {threads}")
        self._path = Path(path) if isinstance(path, (str, os.PathLike)) else None
        self._threads, self._tune, self._check, self._max_bytes = threads, tune, check, max_bytes
        limit = memory_limit(max_bytes)
        with readable(describe(path)):
            self._file = file_bytes(path, limit)
            contents = read_contents(self._file, limit)
            graph = _graph(contents, limit)
            self._sparsity = _sparsity(graph)
            self._programs = Programs(self._extension, graph, limit)
        self._stored = StoredTuning(contents.tuning, self._extension.chosen())
        self._tuned = self._tuned_files() if keep else None
        self._load_tuning(self._programs.first)

    def __getstate__(self) -> dict[str, Any]:
        options = ("_path", "_file", "_threads", "_tune", "_check", "_max_bytes")
        state = {name: self.__dict__[name] for name in options}
        isa = self._extension.chosen()
        return {
            **state,
            "keep": self._tuned is not None,
            "isa": isa,
            "tuned": tuned_modes(self._programs.first.program),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["_file"], state["_threads"], tune=state["_tune"], check=state["_check"],
            max_bytes=state["_max_bytes"],
        )  # fmt: skip
        self._path = state["_path"]
        if state["isa"] == self._extension.chosen():
            choose(self._programs.first.program, state["tuned"], state["_threads"])
        if state["keep"]:
            self._tuned = self._tuned_files()
            self._tuned.load(self._programs.first)

    def __repr__(self) -> str:
        shapes = [
            f"(batch, {', '.join('?' if n < 0 else str(n) for n in shape)})"
            if shape
            else "(batch,)"
            for shape in (self.input_shape, self.output_shape)
        ]
        return (
            f"Engine({str(self._path or 'bytes')!r}: {shapes[0]} -> {shapes[1]}, "
            f"{self._sparsity:.1%} of the weights of its layers are zero, "
            f"{self._extension.chosen()}, {self._threads} thread{'s' * (self._threads > 1)})"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch; -1 for a size that varies."""
        shape = tuple(self._programs.first.program.input_shape)
        dynamic = self._programs.dynamic
        if dynamic is None:
            return shape
        one = len(dynamic.inputs) == 1
        return tuple(n if type(n) is int else -1 for n in dynamic.inputs[0]) if one else (-1,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output, without the batch; -1 for a size that varies."""
        return self._programs.output_shape

    @property
    def threads(self) -> int:
        """Number of threads of a call."""
        return self._threads

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        r"""Run the network.

        Args:
            args: The network's inputs; most networks have one array. Each has shape
                (batch, \*input_shape), batch at least 0: a numpy array, or anything with
                ``__dlpack__`` or ``__array__`` whose memory the CPU can read, such as a torch
                tensor. Contiguous float32 is read in place. Other real types are converted to
                float32 without scaling: bytes of an image give 0.0 to 255.0.
            kwargs: Inputs by the names of the network's arguments.

        Returns:
            The network's outputs: float32 with shape (batch, \*output_shape), or a tuple, list
            or dictionary of arrays. A dataclass is returned as a dictionary.

        Raises:
            TypeError: If an argument is missing or not an array of real numbers.
            ValueError: If it has another shape, with ``check`` is not finite, or holds an integer
                that float32 rounds where the network takes integers.
            MemoryError: If the batch is too large; smaller ones still run.
        """
        x, prepared = self._input(args, kwargs)
        result: Array = prepared.program.run(x, self._threads, self._tune)
        if self._tuned:
            self._tuned.save(prepared)
        signature = prepared.signature
        if signature is None:
            return result
        parts = zip(split(signature, result), signature.outputs, strict=True)
        return rebuild(
            signature.result, [y.astype(_DTYPES[slot.kind], copy=False) for y, slot in parts]
        )

    def profile(self, x: Any, repeats: int = 10) -> Profile:
        """Time every layer.

        Args:
            x: As in a call, with at least one sample; several arguments as a tuple or dictionary.
            repeats: Timed runs, after a first one that is not timed. The fastest time of each
                layer is reported.

        Returns:
            A table.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call, or if x is empty.
        """
        args, kwargs = ((), x) if isinstance(x, dict) else (x if type(x) is tuple else (x,), {})
        x, prepared = self._input(args, kwargs)
        if not len(x):
            raise ValueError("an empty batch cannot be timed: give at least one sample")
        rows = prepared.program.profile(x, self._threads, self._tune, repeats)
        if self._tuned:
            self._tuned.save(prepared)
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

    def save_tuned(self, path: str | os.PathLike[str]) -> None:
        """Write the network's file together with what tuning has chosen on this processor.

        An engine of the new file uses these choices on processors of the same name, model and
        instruction set, so that its first call needs no tuning. Choices for other processors are
        kept. The choices are those of the calls so far: call the engine with every batch size
        that will be used.

        Args:
            path: The new file; it may be the engine's own, which is replaced atomically.

        Raises:
            ValueError: If nothing has been tuned.
            OSError: If the file cannot be written.
        """
        stored = self._stored.with_programs(self._programs.prepared, self._threads)
        with writing(Path(path)) as temporary:
            temporary.write_bytes(with_tuning(self._file, stored.to_json()))

    def _load_tuning(self, prepared: Prepared) -> None:
        if self._tuned is not None:
            self._tuned.load(prepared)
        if self._tune:
            self._stored.load(prepared, self._threads)

    def _tuned_files(self) -> TunedFiles:
        if self._path is None:
            raise ValueError("keep=True writes beside the file: give its path")
        return TunedFiles(self._path, self._file, self._extension.chosen(), self._threads)

    def _input(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Array, Prepared]:
        """Convert the arguments of a call to a program's input."""
        leaves, signature = [*args, *kwargs.values()], self._programs.first.signature
        if signature is not None:
            leaves = signature.leaves(args, kwargs)
        elif len(leaves) != 1:
            raise TypeError(f"this network takes one array, got {len(leaves)}")
        arrays = [as_array(leaf) for leaf in leaves]
        prepared = self._programs.at([array.shape for array in arrays])
        if not prepared.program.modes:
            self._load_tuning(prepared)
        signature = prepared.signature
        if signature is None:
            return self._checked(arrays[0], tuple(prepared.program.input_shape)), prepared
        slots = list(zip(arrays, signature.inputs, strict=True))
        for array, slot in slots:
            if slot.kind == "int":
                check_integers(array)
        arrays = [self._checked(array, slot.shape[1:]) for array, slot in slots]
        return np.ascontiguousarray(pack(signature, arrays, np.concatenate)), prepared

    def _checked(self, array: NDArray[Any], shape: tuple[int, ...]) -> Array:
        if array.ndim == 0 or array.shape[1:] != shape:
            needed = ", ".join(["batch", *map(str, shape)])
            raise ValueError(f"this network takes shape ({needed}), got {array.shape}")
        if array.dtype != np.float32:
            array = as_float32(array)
        if self._check and not np.isfinite(array).all():
            raise ValueError("the input is not finite: use check=False to run it nevertheless")
        return np.ascontiguousarray(array)


def _graph(contents: Contents, limit: int) -> Graph:
    """The network of a file that is small enough to be folded."""
    graph = contents.graph
    if graph is None:
        raise ValueError("it has weights and no network: save the model with example_inputs")
    layers = [graph.tensors[n.tensors["weight"]] for n in graph.nodes if "weight" in n.tensors]
    check_memory(_FOLDING * sum(weight.size for weight in layers), limit)
    return graph


def _sparsity(graph: Graph) -> float:
    names = {n.tensors["weight"] for n in graph.nodes if n.op in ("conv2d", "linear")}
    total = sum(graph.tensors[name].size for name in names)
    nonzeros = sum(int(np.count_nonzero(graph.tensors[name])) for name in names)
    return 1 - nonzeros / total if total else 0.0


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
