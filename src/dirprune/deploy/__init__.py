"""Shipping a network: smaller without a changed output, in a compact file, fast on a CPU.

Importing this loads nothing; each name loads its own module on first use, and what a server needs,
``Engine``, does so without torch.
"""

from typing import TYPE_CHECKING

from dirprune._lazy import lazy

if TYPE_CHECKING:
    from dirprune.deploy.bench import benchmark as benchmark
    from dirprune.deploy.capturing import capture as capture
    from dirprune.deploy.engine import Engine as Engine
    from dirprune.deploy.files import load as load
    from dirprune.deploy.files import save as save
    from dirprune.deploy.graph import Graph as Graph
    from dirprune.deploy.graph import Node as Node
    from dirprune.deploy.module import GraphNet as GraphNet
    from dirprune.deploy.onnx import export_onnx as export_onnx
    from dirprune.deploy.shrinking import shrink as shrink

_HOME = {
    # the four verbs, and one that measures
    "shrink": "dirprune.deploy.shrinking",
    "save": "dirprune.deploy.files",
    "load": "dirprune.deploy.files",
    "Engine": "dirprune.deploy.engine",
    "export_onnx": "dirprune.deploy.onnx",
    "benchmark": "dirprune.deploy.bench",
    # what they are made of
    "capture": "dirprune.deploy.capturing",
    "GraphNet": "dirprune.deploy.module",
    "Graph": "dirprune.deploy.graph",
    "Node": "dirprune.deploy.graph",
}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
