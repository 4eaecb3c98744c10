"""Counting zeros, for logs, tests, the command line and reports."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dirprune._support.modules import effective_tensors
from dirprune._support.wrappers import unwrap

_ALL = "all trainable parameters"


@dataclass(frozen=True)
class LayerSparsity:
    """Zeros of one tensor of a layer, and the channels that they disable.

    ``dead_outputs`` of ``outputs`` channels have a filter that is all zero (for any bias);
    ``unread_inputs`` of ``inputs`` channels are multiplied only by zeros. All four are None for
    tensors that are not the weight of a convolution or linear layer. ``kind`` is the class of the
    layer, such as "Conv2d".
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    total: int
    dead_outputs: int | None = None
    outputs: int | None = None
    unread_inputs: int | None = None
    inputs: int | None = None
    kind: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the tensor has two or more dimensions and only zeros."""
        return len(self.shape) > 1 and 0 < self.total == self.zeros

    @property
    def sparsity(self) -> float:
        """Zeros over entries, in [0, 1]; 0 for an empty tensor."""
        return self.zeros / self.total if self.total else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """Zeros of a whole model, per layer and in total; ``str()`` is a table."""

    layers: tuple[LayerSparsity, ...]
    l1: float
    l2: float

    @property
    def zeros(self) -> int:
        """Entries that are exactly zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def total(self) -> int:
        """Entries of all trainable tensors, the denominator of the sparsity."""
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

        NaN if all weights are zero. Figure 2 of the paper.
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
        if empty := [layer.name for layer in self.layers if layer.is_empty]:
            lines.append(f"all zero: {', '.join(empty)}")
        lines.append(f"l1 {self.l1:.6g}, l2 {self.l2:.6g}, l2/l1 {self.l2_over_l1:.6g}")
        return "\n".join(lines)


@torch.no_grad()
def sparsity_report(model: nn.Module) -> SparsityReport:
    r"""Count the zeros of a model's trainable parameters, per tensor and in total.

    Weights, biases and normalisation layers are counted, as in the paper; buffers and frozen
    parameters are not. A parameter that two layers share is counted once, with the first layer.
    Both ``0.0`` and ``-0.0`` are zeros; NaN is not. Sharded parameters (FSDP2) are gathered one at
    a time, so every process must make the call.

    If a layer computes a tensor from parameters, the computed tensor is counted instead of these
    parameters: a weight under a mask of ``torch.nn.utils.prune``, ``weight_norm``,
    ``spectral_norm`` or any other parametrization, in evaluation mode. The model does not change:
    no power iteration, no buffer, no random state.

    Args:
        model: Any module, also one inside ``torch.compile`` or ``DistributedDataParallel``; the
            names are those of the plain model.

    Returns:
        A frozen report with ``layers``, ``zeros``, ``nonzeros``, ``total``, ``sparsity``, ``l1``,
        ``l2`` and ``l2_over_l1``; the norms are over all trainable tensors, in float64.

    Raises:
        ValueError: If a trainable parameter has no values: it is lazy or on the meta device.

    Warns:
        UserWarning: If every entry of a trainable tensor of two or more dimensions is zero.

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
    layers = []
    l1 = l2_squared = 0.0
    for name, tensor, owner in effective_tensors(unwrap(model)):
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device and has no values: load the model's weights first"
            )
        values = _dense(tensor)
        layers.append(_layer(name, values, owner))
        size = values.abs()  # real, also for complex entries
        l1 += float(size.sum(dtype=torch.float64))
        l2_squared += float(torch.linalg.vector_norm(size, dtype=torch.float64)) ** 2
    if empty := [layer.name for layer in layers if layer.is_empty]:
        warnings.warn(
            f"every entry of {', '.join(empty)} is zero: such a layer outputs only its bias",
            stacklevel=3,
        )
    return SparsityReport(tuple(layers), l1, math.sqrt(l2_squared))


def _dense(tensor: Tensor) -> Tensor:
    """Convert a tensor so that its entries can be counted: not sharded, sparse or 8-bit float."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    full = full if full.layout is torch.strided else full.to_dense()
    return full.float() if full.is_floating_point() and full.itemsize == 1 else full


def _layer(name: str, values: Tensor, owner: nn.Module) -> LayerSparsity:
    total = values.numel()
    zeros = total - int(values.count_nonzero())
    shape = tuple(values.shape)
    kind = type(owner).__name__.removeprefix("Parametrized")
    is_weight = name.rpartition(".")[2] == "weight" and isinstance(owner, _ConvNd | nn.Linear)
    if not is_weight or not total:
        return LayerSparsity(name, shape, zeros, total, kind=kind)
    alive_GOI = _alive(values, owner)
    dead_outputs = int((~alive_GOI.any(dim=2)).sum())
    unread_inputs = int((~alive_GOI.any(dim=1)).sum())
    groups, outputs, inputs = alive_GOI.shape
    return LayerSparsity(
        name,
        shape,
        zeros,
        total,
        dead_outputs,
        groups * outputs,
        unread_inputs,
        groups * inputs,
        kind,
    )


def _alive(weight: Tensor, owner: nn.Module) -> Tensor:
    """Whether any tap joins an output to an input channel, with shape (groups, out, in)."""
    groups = owner.groups if isinstance(owner, _ConvNd) else 1
    taps = (weight != 0).flatten(2).any(dim=2) if weight.dim() > 2 else weight != 0
    alive = taps.view(groups, -1, taps.shape[1])
    return alive.transpose(1, 2) if isinstance(owner, _ConvTransposeNd) else alive


def _share(part: int | None, total: int | None) -> str:
    return f"{part}/{total}"
