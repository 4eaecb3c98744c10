"""Saving and loading a network: one compact file, without pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dirprune._support.files import writing
from dirprune._support.sizes import size_text
from dirprune._support.wrappers import unwrap
from dirprune.deploy.file import container
from dirprune.deploy.file.container import DTYPES, Contents
from dirprune.deploy.file.limits import readable
from dirprune.deploy.file.read import FileOrBytes, describe, read_contents, read_file
from dirprune.deploy.file.values import VALUES, Values
from dirprune.deploy.file.write import write_contents
from dirprune.deploy.graph.capture import captured
from dirprune.deploy.graph.example import ExampleInputs, as_arguments, graph_input
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.graph.size_requests import DynamicSizes


@dataclass(frozen=True)
class Saved:
    """The result of :func:`save`.

    Attributes:
        path: The file.
        bytes: Its size.
        dense_bytes: Size of its tensors without compression.
        runs: Whether it contains the graph, so that it can be run.
        change: Largest difference between the outputs of the file and of the model for the
            example inputs, over the largest output; None if nothing was run.
    """

    path: Path
    bytes: int
    dense_bytes: int
    runs: bool
    change: float | None = None

    def __str__(self) -> str:
        what = "network" if self.runs else "weights only"
        factor = self.dense_bytes / self.bytes
        line = (
            f"{self.path}: {what}, {size_text(self.bytes)}, {factor:.1f} times smaller than "
            f"dense ({size_text(self.dense_bytes)})"
        )
        return line if self.change is None else f"{line}, outputs change by {self.change:.1e}"


def save(
    model: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    example_inputs: ExampleInputs | None = None,
    *,
    values: Values = "float32",
    dynamic: DynamicSizes | None = None,
) -> Saved:
    """Save a network, or the weights of any module, as one compact file.

    Every bit of the tensors is kept, except that -0.0 becomes 0.0: the zeros of a pruned network
    (``w * mask``) have random signs, which would cost a third more bytes. Tensors with the same
    elements, such as tied weights, are stored once.

    Args:
        model: With example inputs, a module that :func:`dirprune.deploy.capture` takes. A
            ``GraphNet`` (from ``load`` or ``shrink``) contains its graph. Otherwise any module or
            state dict: its tensors are stored.
        path: The file. An older file is replaced after the new one is complete and checked.
        example_inputs: A batch of 2 or more, float32.
        values: ``float32`` keeps every bit; ``float16`` and ``int8`` (with a scale for each
            output channel) round float32 weights of two or more dimensions.
        dynamic: Sizes that may vary besides the batch, with inclusive bounds, by input and
            dimension: ``{"x": {2: (64, 512), 3: (64, 512)}}``; a third number is a step, such as
            32 for a network that halves its maps five times. An input is named as in the call of
            the network, or by its index. The file then works for all of them; ``load`` and
            ``Engine`` refuse other sizes.

    Returns:
        Sizes, and the change of the output.

    Raises:
        ValueError: If the model cannot be captured, or a file cannot hold one of its tensors.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = save(model, f"{folder}/model.dpz", torch.randn(2, 64))
        ...     again = load(f"{folder}/model.dpz")
        >>> saved.runs, saved.change, torch.equal(again.state_dict()["0.weight"], model[0].weight)
        (True, 0.0, True)
    """
    if values not in VALUES:
        raise ValueError(f"values must be {', '.join(VALUES)}, got {values!r}")
    path = Path(path)
    if isinstance(model, Mapping):
        if example_inputs is not None or dynamic is not None:
            raise ValueError("a state dict has no network to run: give the module itself")
        graph, state = None, model
    else:
        model = unwrap(model)
        graph = _graph(model, example_inputs, dynamic)
        state = model.state_dict() if graph is None else {}
    contents = _contents(graph, state)
    data = write_contents(contents, values)
    after = read_contents(data).graph  # the file is checked before it replaces another one
    change = None
    if graph is not None and after is not None:
        again = GraphNet(after)
        if example_inputs is not None:
            change = _change(GraphNet(graph), again, example_inputs)
    with writing(path) as temporary:
        temporary.write_bytes(data)
    dense = sum(tensor.array.nbytes for tensor in contents.tensors.values())
    return Saved(path, len(data), dense, graph is not None, change)


def load(path: FileOrBytes, *, max_bytes: int | None = None) -> GraphNet | dict[str, Tensor]:
    """Load a file of :func:`save`; the file may be untrusted.

    Args:
        path: The file: a path, its bytes, or a file opened for reading bytes.
        max_bytes: Bound on the memory that loading may need; None is half of this machine's.

    Returns:
        A module in evaluation mode, if the file contains a network. Its state dict has the tensors
        of the original, bit-identical with ``values="float32"`` (except that -0.0 becomes 0.0).
        Otherwise the state dict of the module.

    Raises:
        ValueError: If it is not such a file, is damaged, or needs more memory.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(nn.BatchNorm2d(4), f"{folder}/weights.dpz")
        ...     list(load(f"{folder}/weights.dpz"))
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    contents = read_file(path, max_bytes)
    with readable(describe(path)):
        if contents.graph is None:
            return {name: _to_torch(tensor) for name, tensor in contents.tensors.items()}
        return GraphNet(contents.graph)


def _graph(
    model: nn.Module, example_inputs: ExampleInputs | None, dynamic: DynamicSizes | None
) -> Graph | None:
    if example_inputs is not None:
        return captured(model, example_inputs, dynamic)
    if dynamic is not None:
        raise ValueError("dynamic needs example_inputs: without them only weights are stored")
    return model.graph if isinstance(model, GraphNet) else None


def _contents(graph: Graph | None, state: Mapping[str, object]) -> Contents:
    if graph is not None:
        arrays = {name: container.Tensor("float32", a) for name, a in graph.tensors.items()}
        return Contents(graph, arrays)
    return Contents(None, {name: _to_numpy(name, t) for name, t in state.items()})


def _to_numpy(name: str, tensor: object) -> container.Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError(
            f"{name} in the state dict is a {type(tensor).__name__}: a file holds tensors only"
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(
            f"{name} is {tensor.dtype} ({tensor.layout}, {tensor.device}): a file holds dense "
            f"tensors of {', '.join(DTYPES)}"
        )
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    stored = np.dtype(DTYPES[dtype])
    bits = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, np.uint8)
    return container.Tensor(dtype, bits.view(stored).reshape(plain.shape))


def _to_torch(tensor: container.Tensor) -> Tensor:
    dtype = getattr(torch, tensor.dtype)
    if not tensor.array.size:
        return torch.empty(tensor.array.shape, dtype=dtype)
    flat = np.ascontiguousarray(tensor.array).reshape(-1).view(np.uint8).copy()
    return torch.from_numpy(flat).view(dtype).reshape(tensor.array.shape)


@torch.no_grad()
def _change(before: GraphNet, after: GraphNet, example_inputs: ExampleInputs) -> float:
    args, kwargs = as_arguments(example_inputs)
    if before.graph.signature is None:
        args, kwargs = (graph_input(before.graph, example_inputs),), {}
    results = [tree_leaves(net(*args, **kwargs)) for net in (before, after)]
    expected, found = (
        torch.cat([y.float().flatten() for y in leaves if isinstance(y, Tensor)])
        for leaves in results
    )
    largest = float(expected.abs().max())
    change = float((expected - found).abs().max())
    return change / largest if change else 0.0
