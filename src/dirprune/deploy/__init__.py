"""Deploying a network: shrinking without changing the outputs, a compact file, fast inference.

Importing this package imports nothing; each public name imports its module on first use.
``Engine``, which is all that a server needs, does not import torch.
"""

from typing import TYPE_CHECKING

from dirprune._support.lazy import lazy

if TYPE_CHECKING:
    from dirprune.deploy.engine import Engine as Engine
    from dirprune.deploy.file.io import load as load
    from dirprune.deploy.file.io import save as save
    from dirprune.deploy.graph.capture import capture as capture
    from dirprune.deploy.graph.graph import Graph as Graph
    from dirprune.deploy.graph.graph import Node as Node
    from dirprune.deploy.graph.module import GraphNet as GraphNet
    from dirprune.deploy.onnx import export_onnx as export_onnx
    from dirprune.deploy.shrinking.blocks import channel_blocks as channel_blocks
    from dirprune.deploy.shrinking.blocks import channel_costs as channel_costs
    from dirprune.deploy.shrinking.network import shrink as shrink

_HOME = {
    # the four verbs
    "shrink": "dirprune.deploy.shrinking.network",
    "save": "dirprune.deploy.file.io",
    "load": "dirprune.deploy.file.io",
    "Engine": "dirprune.deploy.engine",
    "export_onnx": "dirprune.deploy.onnx",
    # what can be pruned so that shrink removes it
    "channel_blocks": "dirprune.deploy.shrinking.blocks",
    "channel_costs": "dirprune.deploy.shrinking.blocks",
    # what they are made of
    "capture": "dirprune.deploy.graph.capture",
    "GraphNet": "dirprune.deploy.graph.module",
    "Graph": "dirprune.deploy.graph.graph",
    "Node": "dirprune.deploy.graph.graph",
}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
