"""A network with 8-bit arithmetic, for the other runtimes."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from dirprune.deploy.graph.operators.record import Shape

CALIBRATION = 4, 8
"""Number of batches that calibrate the ranges of activations, and of inputs in each."""


def write_int8(onnx: Path, out: Path, shape: Shape) -> None:
    """Quantize an ONNX file statically with ONNX Runtime's tool.

    Weights get a scale for each output channel. Activations get a scale from their range on
    standard normal inputs, the inputs of the benchmark, so the file is only useful for timing.
    Pairs of QuantizeLinear and DequantizeLinear mark the parts that run in 8 bits.

    Args:
        onnx: File that :func:`.onnx.write_onnx` wrote.
        out: The file to write.
        shape: Shape of one input, without the batch.
    """
    tool: Any = import_module("onnxruntime.quantization")
    prepare: Any = import_module("onnxruntime.quantization.shape_inference").quant_pre_process

    class Inputs(tool.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = _normal(shape)

        def get_next(self) -> dict[str, Any] | None:
            x = next(self._batches, None)
            return None if x is None else {"input": x}

    folded = out.with_suffix(".folded.onnx")  # layers before a BatchNorm are not quantized
    prepare(str(onnx), str(folded), skip_symbolic_shape=True)
    tool.quantize_static(
        str(folded),
        str(out),
        Inputs(),
        quant_format=tool.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,  # 7 bits of weights: sums of two products overflow without VNNI
        activation_type=tool.QuantType.QInt8,
        weight_type=tool.QuantType.QInt8,
    )
    folded.unlink()


def _normal(shape: Shape) -> Iterator[Any]:
    random = np.random.default_rng(1)
    batches, size = CALIBRATION
    for _ in range(batches):
        yield random.standard_normal((size, *shape), np.float32)
