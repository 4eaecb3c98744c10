"""The runtimes that a benchmark compares, each as a function from array to array."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dirprune._support.suggestions import did_you_mean
from dirprune.deploy.arrays import Array
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.graph.operators.record import Shape

Call = Callable[[Array], Array]

PEERS = ("torch", "onnxruntime", "openvino")
"""The runtimes that are compared by default."""

INT8 = {"onnxruntime-int8": "onnxruntime", "openvino-int8": "openvino"}
"""The network quantized to 8 bits: names, and the runtimes that compute them."""


class Peer(NamedTuple):
    """One runtime with one network, for one batch size and number of threads.

    Attributes:
        name: Name of the runtime.
        precision: Precision of its arithmetic, such as ``f32`` or ``bf16``.
        call: Computes the network.
    """

    name: str
    precision: str
    call: Call


def check_peers(names: tuple[str, ...]) -> None:
    """Refuse unknown names of runtimes.

    Raises:
        ValueError: If a name is unknown.
    """
    if unknown := sorted(set(names) - {*PEERS, *INT8}):
        known = [*PEERS, *INT8]
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"unknown runtime {unknown[0]!r}: {hint}choose from {', '.join(known)}")


def is_installed(name: str) -> bool:
    """Return whether a runtime, and what it needs to read a network, can be imported."""
    needed: tuple[str, ...] = (name,) if name == "torch" else (name, "onnx")
    if name in INT8:
        needed = (INT8[name], "onnx", "onnxruntime")  # onnxruntime's tool quantizes
    return all(find_spec(module) is not None for module in needed)


def open_peers(name: str, net: GraphNet, onnx: Path, shape: Shape, threads: int) -> list[Peer]:
    """Load a network into a runtime.

    Runtimes that can use a fixed batch size get it.

    Args:
        name: One of :data:`PEERS` or :data:`INT8`.
        net: The network.
        onnx: The same network as an ONNX file, quantized for :data:`INT8`. Not read for torch.
        shape: Shape of the input, with the batch size.
        threads: Number of threads.

    Returns:
        One peer, or two if the runtime's default precision is not float32.

    Raises:
        ValueError: If OpenVINO has no kernel for a layer of the network on this processor.
    """
    if name in INT8:
        peer = _OPEN[INT8[name]](net, onnx, shape, threads)[0]
        return [Peer(peer.name, "i8", peer.call)]
    return _OPEN[name](net, onnx, shape, threads)


def _torch(net: GraphNet, onnx: Path, shape: Shape, threads: int) -> list[Peer]:
    def call(x: Array) -> Array:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            result: Array = net(torch.from_numpy(x)).numpy()
        return result

    return [Peer("torch", "f32", call)]


def _onnxruntime(net: GraphNet, onnx: Path, shape: Shape, threads: int) -> list[Peer]:
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_free_dimension_override_by_name("batch", shape[0])
    session = runtime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    return [Peer("onnxruntime", "f32", lambda x: session.run(["output"], {"input": x})[0])]


def _openvino(net: GraphNet, onnx: Path, shape: Shape, threads: int) -> list[Peer]:
    openvino: Any = import_module("openvino")
    core = openvino.Core()
    model = core.read_model(onnx)
    model.reshape(list(shape))
    peers: dict[str, Peer] = {}
    reason = ""
    for choice in ({}, {"INFERENCE_PRECISION_HINT": "f32"}):
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **choice}
        try:
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:  # 8-bit weights and half precision on some processors
            reason = " ".join(str(error).split())
            continue
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        request = compiled.create_infer_request()

        def call(x: Array, request: Any = request) -> Array:
            return np.array(request.infer({0: x})[0])

        peers.setdefault(precision, Peer("openvino", precision, call))
    if not peers:
        raise ValueError(f"OpenVINO cannot run this network here: leave it out ({reason})")
    return list(peers.values())


_OPEN = {"torch": _torch, "onnxruntime": _onnxruntime, "openvino": _openvino}
