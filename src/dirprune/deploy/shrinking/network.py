"""Exact shrinking: the same outputs from a smaller network."""

from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from dirprune._support.wrappers import unwrap
from dirprune.deploy.graph.capture import captured
from dirprune.deploy.graph.example import ExampleInputs, as_arguments
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet
from dirprune.deploy.graph.signature import pack
from dirprune.deploy.graph.size_requests import DynamicSizes, resized
from dirprune.deploy.shrinking.constants import Arrays
from dirprune.deploy.shrinking.minimal import minimize
from dirprune.deploy.shrinking.rebuild import Exact
from dirprune.deploy.shrinking.report import ShrinkReport, make_report
from dirprune.deploy.shrinking.variants import variants

SCALES = (0.1, 1.0, 10.0)
"""Standard deviations of the random inputs on which a smaller network is verified."""
MOST_ELEMENTS = 4
"""Larger inputs than so many times the example are not used for verification: they take long."""
TOLERANCE = 1e-9
"""Largest difference that verification accepts, relative to the largest output."""


class ShrunkNet(GraphNet):
    """A network without the channels that had no effect.

    It is an ordinary module, which can be saved, loaded, trained, exported and captured. The names
    of its parameters are those of the original.

    Attributes:
        report: The sizes of every layer before and after.
    """

    report: ShrinkReport

    def __init__(self, graph: Graph, report: ShrinkReport) -> None:
        super().__init__(graph)
        self.__dict__["report"] = report  # a submodule may have this name too


def shrink(
    model: nn.Module, example_inputs: ExampleInputs, dynamic: DynamicSizes | None = None
) -> ShrunkNet:
    r"""Remove the channels that have no effect, without changing the outputs in evaluation mode.

    A channel whose filter is all zero, or whose BatchNorm has :math:`\gamma = 0`, is a constant

    .. math:: k = \beta + \gamma\,(b - \mathrm{mean}) / \sqrt{\mathrm{var} + \epsilon},

    and another constant after the activation. It is removed if k = 0 where it is read, or if no
    reader pads: then :math:`k \sum w` is added to the readers' biases. A channel that no weight
    reads is always removed. Channels joined by an addition or a product are removed together or
    not at all; those of a grouped convolution by whole groups; queries and keys, and the values of
    attention, by the heads, and by the widths of all heads. If all channels of a layer could be
    removed, one is kept, so that the result is an ordinary network for any batch size. A constant
    branch of a sum is replaced by its constant.

    Where sizes vary, what is removed has no effect at any of them. The result is verified on
    random inputs in float64, where it differs only by rounding.

    Args:
        model: As for :func:`dirprune.deploy.capture`, or a ``GraphNet``. It is not changed.
        example_inputs: As for :func:`dirprune.deploy.capture`.
        dynamic: As for :func:`dirprune.deploy.capture`; a ``GraphNet`` has sizes of its own.

    Returns:
        The smaller network in evaluation mode, with float32 parameters on the CPU, frozen where
        the model's are. Its ``report`` lists what was removed, and the reasons why other channels
        were kept.

    Raises:
        ValueError: If the model cannot be captured, or contains NaN or infinity.
        RuntimeError: If the outputs differ, which is a bug.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with torch.no_grad(): _ = model[0].weight[1:].zero_()
        >>> small = shrink(model, torch.ones(2, 3))
        >>> small.report.parameters
        (26, 8)
    """
    model = unwrap(model)
    before = captured(model, example_inputs, dynamic)
    _check_finite(before)
    network, liveness, constants = minimize(before)
    error = difference(before, network, example_inputs)
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"the smaller network's outputs differ by {error:.1e} of the largest: this is a bug "
            "of dirprune, please report it with the model"
        )
    report = make_report(before, network.graph, liveness, constants, error)
    small = ShrunkNet(network.graph, report)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return small


def _check_finite(graph: Graph) -> None:
    """Refuse weights that are not finite. Masks may hold infinity, numbers of the code NaN too."""
    fixed = {
        node.tensors["value"]
        for node in graph.nodes
        if node.op == "constant" and not node.attrs.get("trained")
    }
    for name, tensor in graph.tensors.items():
        written = name in fixed and name.startswith("constant.")
        missing = np.isnan(tensor).any() and not written
        if missing or (name not in fixed and np.isinf(tensor).any()):
            path = next((n.path for n in graph.nodes if name in n.tensors.values()), "")
            computed = (
                f" (of {path or 'the root'}, computed from its parameters: weight_norm and others "
                "divide by the norm of a row, which may be all zero)"
            )
            raise ValueError(
                f"{name}{computed if name.startswith('constant.') else ''} holds NaN or infinity: "
                "shrink takes finite weights only"
            )


def difference(before: Graph, after: Exact, example_inputs: ExampleInputs | None = None) -> float:
    """Compare two graphs on random inputs.

    Args:
        before: The one.
        after: The other.
        example_inputs: Of a graph with a signature, whose integers and booleans are used.

    Returns:
        The largest difference in float64, of the largest output at the same scale and sizes.
    """
    pairs = list(zip(variants(before), variants(after.graph), strict=True))
    largest = MOST_ELEMENTS * prod(before.shape[1:])
    return max(
        _difference_at(large, small, after.tensors, example_inputs)
        for large, small in pairs
        if large.shape == before.shape or prod(large.shape[1:]) <= largest
    )


@torch.no_grad()
def _difference_at(
    before: Graph, after: Graph, tensors: Arrays, example_inputs: ExampleInputs | None
) -> float:
    large, small = GraphNet(before).double(), GraphNet(after).double()
    small.load_state_dict({k: torch.from_numpy(np.asarray(t)) for k, t in tensors.items()})
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for scale in SCALES:
        x = _random_input(before, scale, generator, example_inputs)
        expected, found = large.run(x), small.run(x)
        finite = expected.isfinite()
        if not torch.equal(finite, found.isfinite()):
            return float("inf")
        size = float(expected[finite].abs().max()) if finite.any() else 0.0
        gap = float((expected - found)[finite].abs().max()) if finite.any() else 0.0
        worst = max(worst, gap / size if size else gap)
    return worst


def _random_input(
    graph: Graph, scale: float, generator: torch.Generator, example_inputs: ExampleInputs | None
) -> Tensor:
    if graph.signature is None or example_inputs is None:
        shape = (2, *graph.shape[1:])
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    args, kwargs = as_arguments(example_inputs)
    leaves = zip(graph.signature.leaves(args, kwargs), graph.signature.inputs, strict=True)
    sized = [resized(leaf.cpu(), (len(leaf), *slot.shape[1:])).double() for leaf, slot in leaves]
    x: Tensor = pack(graph.signature, sized, torch.cat)
    noise = scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    kinds = [slot.kind for slot in graph.signature.inputs for _ in range(slot.size)]
    is_float = torch.tensor([kind == "float" for kind in kinds]).reshape(x.shape[1:])
    return torch.where(is_float, noise, x)
