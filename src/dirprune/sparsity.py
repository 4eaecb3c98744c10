"""What counts as zero: one accounting for logs, tests, the command line and reports."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_ALL = "all trainable parameters"


@dataclass(frozen=True)
class LayerSparsity:
    """Zeros of one parameter tensor, and the channels that they silence.

    ``dead_outputs`` of ``outputs`` channels have a filter that is all zero (whatever their bias);
    ``unread_inputs`` of ``inputs`` channels are multiplied by zeros only. All four are None for
    tensors that are no convolution's or linear layer's weight.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    total: int
    dead_outputs: int | None = None
    outputs: int | None = None
    unread_inputs: int | None = None
    inputs: int | None = None

    @property
    def sparsity(self) -> float:
        """Zeros over entries, in [0, 1]; 0 for an empty tensor."""
        return self.zeros / self.total if self.total else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """Zeros of a whole model, layer by layer and in all; ``str()`` is a table."""

    layers: tuple[LayerSparsity, ...]
    l1: float
    l2: float

    @property
    def zeros(self) -> int:
        """Entries that are exactly zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def total(self) -> int:
        """Entries of all trainable parameters: the denominator of the sparsity."""
        return sum(layer.total for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Entries that are not zero."""
        return self.total - self.zeros

    @property
    def sparsity(self) -> float:
        """Zeros over all trainable parameters, in [0, 1]."""
        return self.zeros / self.total if self.total else 0.0

    @property
    def l2_over_l1(self) -> float:
        r""":math:`\|w\|_2 / \|w\|_1`, between :math:`d^{-1/2}` (spread evenly) and 1 (one entry).

        NaN where all weights are zero. Figure 2 of the paper.
        """
        return self.l2 / self.l1 if self.l1 else math.nan

    def __str__(self) -> str:
        """Draw the table."""
        width = max([len(layer.name) for layer in self.layers] + [len(_ALL)])
        lines = [f"{'':{width}}  {'zeros':>12} {'of':>12} {'sparsity':>9}  dead out  unread in"]
        for layer in self.layers:
            channels = (
                ""
                if layer.outputs is None
                else (
                    f"{_share(layer.dead_outputs, layer.outputs):>10}"
                    f"{_share(layer.unread_inputs, layer.inputs):>11}"
                )
            )
            lines.append(
                f"{layer.name:{width}}  {layer.zeros:12,} {layer.total:12,} "
                f"{layer.sparsity:9.2%}{channels}"
            )
        lines.append(f"{_ALL:{width}}  {self.zeros:12,} {self.total:12,} {self.sparsity:9.2%}")
        lines.append(f"l1 {self.l1:.6g}, l2 {self.l2:.6g}, l2/l1 {self.l2_over_l1:.6g}")
        return "\n".join(lines)


@torch.no_grad()
def sparsity_report(model: nn.Module) -> SparsityReport:
    r"""Count the zeros of a model's trainable parameters, per tensor and in all.

    Weights, biases and normalisation layers all count, as in the paper; buffers and frozen
    parameters do not, and a parameter that two layers share counts once, with the first. Both
    ``0.0`` and ``-0.0`` are zeros; NaN is not. Sharded parameters (FSDP2) are gathered one at a
    time, so every process must make the call.

    Args:
        model: Any module.

    Returns:
        A frozen report with ``layers``, ``zeros``, ``nonzeros``, ``total``, ``sparsity``, ``l1``,
        ``l2`` and ``l2_over_l1``; the norms are over all trainable parameters, in float64.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), section 4 (sparsity) and
        figure 2 (norms), https://arxiv.org/abs/2006.09358

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> with torch.no_grad(): _ = layer.weight.copy_(torch.tensor([[0, 0, 0], [1, 0, 2.0]]))
        >>> report = sparsity_report(layer)
        >>> report.zeros, report.total, report.layers[0].dead_outputs
        (6, 8, 1)
        >>> report.l2_over_l1 == 5**0.5 / 3
        True
    """
    owners: dict[int, nn.Module] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), module)
    layers = []
    l1 = l2_squared = 0.0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = owners[id(parameter)]
        is_weight = getattr(owner, "weight", None) is parameter
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        layers.append(_layer(name, whole, owner if is_weight else None))
        l1 += float(whole.abs().sum(dtype=torch.float64))
        l2_squared += float(torch.linalg.vector_norm(whole, dtype=torch.float64)) ** 2
    return SparsityReport(tuple(layers), l1, math.sqrt(l2_squared))


def _layer(name: str, parameter: Tensor, owner: nn.Module | None) -> LayerSparsity:
    total = parameter.numel()
    zeros = total - int(parameter.count_nonzero())
    shape = tuple(parameter.shape)
    if not isinstance(owner, _ConvNd | nn.Linear) or not total:
        return LayerSparsity(name, shape, zeros, total)
    alive_GOI = _alive(parameter, owner)
    dead_outputs = int((~alive_GOI.any(dim=2)).sum())
    unread_inputs = int((~alive_GOI.any(dim=1)).sum())
    groups, outputs, inputs = alive_GOI.shape
    return LayerSparsity(
        name, shape, zeros, total, dead_outputs, groups * outputs, unread_inputs, groups * inputs
    )


def _alive(weight: Tensor, owner: nn.Module) -> Tensor:
    """Whether any tap joins an output to an input channel, with shape (groups, out, in)."""
    groups = owner.groups if isinstance(owner, _ConvNd) else 1
    taps = (weight != 0).flatten(2).any(dim=2) if weight.dim() > 2 else weight != 0
    alive = taps.view(groups, -1, taps.shape[1])
    return alive.transpose(1, 2) if isinstance(owner, _ConvTransposeNd) else alive


def _share(part: int | None, whole: int | None) -> str:
    return f"{part}/{whole}"
