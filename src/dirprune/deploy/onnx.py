"""Standard ONNX, for every other runtime."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dirprune._support.files import writing
from dirprune._support.sizes import size_text
from dirprune._support.wrappers import unwrap
from dirprune.deploy.graph.capture import Reference, largest_gap, tolerance
from dirprune.deploy.graph.example import Example, ExampleInputs, evaluating, kind_of
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.size_requests import DynamicSizes, other_sizes
from dirprune.deploy.shrinking.network import shrink
from dirprune.deploy.shrinking.report import ShrinkReport

OPSET = 20
"""The version of ONNX's operators, the first with Gelu."""
TOLERANCE = 1e-4
"""Largest difference that ONNX Runtime may show, relative to the largest output, where
the network computes in float32."""
_TYPES = {"float": torch.float32, "int": torch.int64, "bool": torch.bool}


@dataclass(frozen=True)
class OnnxFile:
    """The result of an export.

    Attributes:
        path: The file.
        size: In bytes.
        opset: Version of ONNX's operators.
        difference: The largest difference between ONNX Runtime's outputs and the module's,
            relative to the largest output; None where ONNX Runtime is not installed.
        report: The report of shrinking.
    """

    path: Path
    size: int
    opset: int
    difference: float | None
    report: ShrinkReport

    def __str__(self) -> str:
        """Describe the export in one line."""
        checked = (
            "not run: pip install onnxruntime"
            if self.difference is None
            else f"differs by {self.difference:.1e} in ONNX Runtime"
        )
        return f"{self.path}: {size_text(self.size)}, opset {self.opset}, {checked}"


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: ExampleInputs,
    dynamic: DynamicSizes | None = None,
) -> OnnxFile:
    """Write a network, shrunk, as a file of ONNX for batches of any size.

    A network with one float tensor in and one out has ``input`` and ``output``; any other has its
    arguments' names and ``output.0``, ``output.1`` and so on. Tensors keep the names that they
    have in the state dict. Zeros inside the remaining channels are written as numbers, because
    other runtimes treat them like other numbers.

    Args:
        model: As for :func:`dirprune.deploy.capture`.
        path: The file; it is replaced atomically.
        example_inputs: As for :func:`dirprune.deploy.capture`. If ONNX Runtime is installed, both
            networks are run on them, on the first sample alone, and for sizes that vary at four
            combinations of them, and compared.
        dynamic: As for :func:`dirprune.deploy.capture`. A size that varies is a named dimension
            of the file, such as ``x.2``.

    Returns:
        The file, and the difference of the outputs.

    Raises:
        ImportError: If onnx is not installed.
        ValueError: If the model cannot be captured, or is too large for one file.
        RuntimeError: If the outputs differ, which is a bug; nothing is written then.
        OSError: If the file cannot be written.

    Example:
        >>> path = getfixture("tmp_path") / "model.onnx"
        >>> export_onnx(nn.Linear(3, 2), path, torch.ones(2, 3)).opset  # doctest: +SKIP
        20
    """
    small = shrink(model, example_inputs, dynamic)
    with writing(Path(path)) as temporary:
        write_onnx(small.graph, temporary)
        difference = _difference(model, small.graph, temporary, example_inputs)
        size = temporary.stat().st_size
    return OnnxFile(Path(path), size, OPSET, difference, small.report)


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph as it is, and let onnx check it.

    Args:
        graph: As captured, not lowered.
        path: A new file.

    Raises:
        ImportError: If onnx is not installed.
        ValueError: If it is too large for one file.
    """
    if find_spec("onnx") is None:
        raise ImportError("ONNX needs the package onnx: pip install dirprune[onnx]")
    import onnx
    from onnx import helper

    from dirprune.deploy.onnx_writer import onnx_graph

    opsets = [helper.make_opsetid("", OPSET)]
    # The oldest file format that has these operators is the one that most runtimes read.
    model = helper.make_model(
        onnx_graph(graph),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="dirprune",
    )
    if (size := model.ByteSize()) >= 2**31:
        raise ValueError(f"{size:,} bytes are more than the 2 GiB that an ONNX file may have")
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _difference(
    model: nn.Module, graph: Graph, path: Path, example_inputs: ExampleInputs
) -> float | None:
    """Run both on the example, on its first sample alone, and at other sizes."""
    if find_spec("onnxruntime") is None:
        return None
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    example = Example(unwrap(model), example_inputs)
    worst, reference = 0.0, Reference()
    batches = [example.leaves, [leaf[:1] for leaf in example.leaves]]
    for batch in (*batches, *(leaves for _, leaves in other_sizes(graph, example))):
        with evaluating(model), torch.no_grad(), reference:
            expected = example.call(batch)
        arrays = [leaf.cpu().to(_TYPES[kind_of(leaf)]).numpy() for leaf in batch]
        found = session.run(None, dict(zip(names, arrays)))
        for wanted, own in zip(expected, found, strict=True):
            if wanted.shape != own.shape:  # such as by x.squeeze() of a batch of one
                wanted = wanted.reshape(own.shape)
            gap, largest = largest_gap(wanted.cpu().double(), torch.from_numpy(own).double())
            worst = max(worst, gap / (largest or 1.0))
    if not worst <= tolerance(reference.seen, TOLERANCE):
        raise RuntimeError(
            f"ONNX Runtime's outputs differ by {worst:.1e} of the largest: this is a bug of "
            "dirprune, please report it with the model"
        )
    return worst
