"""Random crop and flip of a whole batch, on uint8 tensors with shape (B, C, H, W)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one window out of every image, each at its own position.

    Args:
        images: Shape (B, C, H, W).
        top: First row of each window, int64 with shape (B,).
        left: First column of each window, int64 with shape (B,).
        size: Height and width (h, w) of all windows.

    Returns:
        The windows, with shape (B, C, h, w).

    Example:
        >>> x = torch.arange(9).view(1, 1, 3, 3)
        >>> crop(x, torch.tensor([1]), torch.tensor([0]), (2, 2))
        tensor([[[[3, 4],
                  [6, 7]]]])
    """
    height, width = size
    windows = images.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, rows, columns, h, w)
    return windows[torch.arange(len(images)), :, top, left]


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: Shape (B, C, H, W).
        which: True where an image is mirrored, with shape (B,).

    Example:
        >>> flip(torch.tensor([[[[1, 2]]], [[[1, 2]]]]), torch.tensor([True, False])).flatten()
        tensor([2, 1, 1, 2])
    """
    return torch.where(which[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale uint8 images to float32: ``(images / 255 - mean) / std`` in every channel.

    Args:
        images: uint8 with shape (B, C, H, W).
        mean: One number per channel, for images in [0, 1].
        std: One positive number per channel, for images in [0, 1].

    Example:
        >>> normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), (0.5,), (0.5,)).flatten()
        tensor([-1.,  1.])
    """
    shift = 255 * torch.tensor(mean).view(-1, 1, 1)
    scale = 255 * torch.tensor(std).view(-1, 1, 1)
    return images.float().sub_(shift).div_(scale)


@dataclass(frozen=True)
class CropFlip:
    """The usual augmentation of small images: pad, crop to the original size, flip half of them.

    Attributes:
        padding: Pixels added on each side before the crop.
        mode: constant pads with black, as torchvision's RandomCrop and the paper do; reflect
            mirrors the border.
    """

    padding: int
    mode: Literal["constant", "reflect"] = "constant"

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment a batch, with offsets and flips from ``rng``."""
        top, left = torch.from_numpy(rng.integers(2 * self.padding + 1, size=(2, len(images))))
        which = torch.from_numpy(rng.random(len(images)) < 0.5)
        padded = F.pad(images, [self.padding] * 4, mode=self.mode)
        height, width = images.shape[2:]
        return flip(crop(padded, top, left, (height, width)), which)
