"""Networks with random weights and zeros at random positions, to measure time and size."""

import csv
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

PAPER = Path(__file__).with_name("resnet50_sparsity.csv")
"""Zeros in every layer of the paper's ResNet-50 (gRDA, c = .005, mu = .55; figure 4)."""


def paper_resnet50() -> nn.Module:
    """ResNet-50 with Gaussian weights and the paper's share of zeros in every layer."""
    with PAPER.open() as file:
        shares = {row["layer"]: float(row["zeros"]) for row in csv.DictReader(file)}
    return masked(torchvision.models.resnet50(weights=None), lambda name, p: shares[name])


@torch.no_grad()
def masked(model: nn.Module, share: Callable[[str, Tensor], float]) -> nn.Module:
    """Initialise a network's weights again (He-normal), with a share of zeros in every layer.

    Args:
        model: Changed in place.
        share: Maps a weight's name and tensor to its share of zeros.

    Returns:
        The network in evaluation mode, with random BatchNorm parameters and statistics.
    """
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if p.dim() > 1:
            p.normal_(std=(2 / p[0].numel()) ** 0.5, generator=generator)
            p[torch.rand(p.shape, generator=generator) < share(name, p)] = 0
    for tensor in model.state_dict().values():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
    return model.eval()
