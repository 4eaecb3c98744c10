"""Augmentation of a batch, compared with torchvision's functions applied to each image."""

from typing import Literal

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import crop as crop_one
from torchvision.transforms.functional import hflip, normalize, pad

from dirprune.data.augment import CropFlip, crop, flip, normalise


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (16, 3, 32, 28), dtype=torch.uint8)


def test_crop_equals_torchvisions(images: torch.Tensor) -> None:
    top, left = torch.randint(0, 9, (2, 16))
    expected = [
        crop_one(x, int(t), int(s), 24, 20) for x, t, s in zip(images, top, left, strict=True)
    ]
    assert torch.equal(crop(images, top, left, (24, 20)), torch.stack(expected))


def test_flip_equals_torchvisions(images: torch.Tensor) -> None:
    which = torch.arange(16) % 3 == 0
    expected = [hflip(x) if chosen else x for x, chosen in zip(images, which, strict=True)]
    assert torch.equal(flip(images, which), torch.stack(expected))


def test_normalise_is_torchvisions(images: torch.Tensor) -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    expected = normalize(images.float() / 255, list(mean), list(std))
    torch.testing.assert_close(normalise(images, mean, std), expected)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_flip_gives_only_windows_of_the_padded_image_and_all_of_them(
    mode: Literal["constant", "reflect"],
) -> None:
    image = torch.randint(0, 256, (1, 12, 10), dtype=torch.uint8)
    padded = pad(image, [2], padding_mode=mode)
    windows = [crop_one(padded, top, left, 12, 10) for top in range(5) for left in range(5)]
    possible = {x.numpy().tobytes() for window in windows for x in (window, hflip(window))}
    assert len(possible) == 50
    batch = CropFlip(2, mode)(image.repeat(2000, 1, 1, 1), np.random.default_rng(0))
    found = [x.numpy().tobytes() for x in batch]
    assert set(found) == possible
    # 50 equally likely outcomes: chi-squared with 49 degrees of freedom, five deviations.
    counts = np.array([found.count(x) for x in possible])
    assert ((counts - 40) ** 2 / 40).sum() < 49 + 5 * (2 * 49) ** 0.5


def test_crop_flip_keeps_shape_type_and_its_argument(images: torch.Tensor) -> None:
    before = images.clone()
    out = CropFlip(4)(images, np.random.default_rng(0))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
