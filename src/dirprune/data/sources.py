"""Sources of batches. Each batch is a pure function of the seed, the epoch and its number."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dirprune.data.augment import CropFlip, normalise

_ORDER, _AUGMENTATION = 0, 1  # separate streams of random numbers


@dataclass(frozen=True)
class Request:
    """The images of one batch.

    Attributes:
        indices: Images of the whole batch, over all processes, int64 with shape (B,).
        mine: The slice of them for this process.
        rng: Random numbers for the whole batch's augmentation, or None without augmentation.
    """

    indices: Tensor
    mine: slice
    rng: np.random.Generator | None


class Source(ABC):
    """Labelled images that several processes can read in any order, from any batch on.

    Attributes:
        labels: int64 with shape (N,).
        mean: Of every channel, for images in [0, 1].
        std: Of every channel, for images in [0, 1].
    """

    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch. Equal arguments give equal batches.

        Args:
            batch_size: Images per batch, over all processes together.
            seed: Decides order and augmentation; needed only for these two.
            epoch: Every epoch has its own order and augmentation.
            start: First batch to yield. Earlier batches are not read.
            shuffle: Draw a new order of the images instead of the stored order.
            augment: Augment the images, if the source has an augmentation.
            drop_last: Skip the last batch if it is not full.
            rank: Number of this process, in [0, world).
            world: Number of processes. Each gets a contiguous slice of every batch; the slices
                in the order of the ranks form the batch of a single process.

        Yields:
            Normalised float32 images with shape (B, C, H, W) and int64 labels with shape (B,).

        Raises:
            ValueError: If order or augmentation are to be drawn without a seed, the seed is
                negative, or the batch size is below 1.
        """
        if seed is None and (shuffle or augment):
            raise ValueError("shuffled or augmented batches need a seed, got None: give seed")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        order = np.arange(len(self))
        if shuffle:
            order = _rng(_ORDER, seed or 0, epoch).permutation(len(self))
        count = num_batches(len(self), batch_size, drop_last=drop_last)

        def requests() -> Iterator[Request]:
            for k in range(start, count):
                indices = torch.from_numpy(order[k * batch_size : (k + 1) * batch_size])
                mine = slice(len(indices) * rank // world, len(indices) * (rank + 1) // world)
                rng = _rng(_AUGMENTATION, seed or 0, epoch, k) if augment else None
                yield Request(indices, mine, rng)

        for images, labels in self.read(requests()):
            yield normalise(images, self.mean, self.std), labels

    @abstractmethod
    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's uint8 images and labels for every request, in order."""

    @abstractmethod
    def take(self, indices: Tensor) -> "Source":
        """Return a source of only these images."""


def num_batches(num_images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Count the batches of an epoch, which may be none.

    Example:
        >>> num_batches(5, 2), num_batches(5, 2, drop_last=True)
        (3, 2)
    """
    return num_images // batch_size if drop_last else math.ceil(num_images / batch_size)


@dataclass(frozen=True)
class MemorySource(Source):
    """Small data sets: all images in memory as bytes, augmented and normalised batch by batch.

    Attributes:
        images: uint8 with shape (N, C, H, W).
        augmentation: The augmentation, or None.

    Example:
        >>> images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        >>> source = MemorySource(images, torch.tensor([0, 1, 2]), (0.5,), (0.5,))
        >>> [labels.tolist() for _, labels in source.batches(2)]
        [[0, 1], [2]]
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: CropFlip | None = None

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Look the images up; see `Source.read`."""
        for request in requests:
            images = self.images[request.indices]
            if self.augmentation is not None and request.rng is not None:
                # Augment the whole batch, so that the augmentation of an image does not depend
                # on the number of processes.
                images = self.augmentation(images, request.rng)
            yield images[request.mine], self.labels[request.indices[request.mine]]

    def take(self, indices: Tensor) -> "MemorySource":
        """Return a source of only these images."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def _rng(purpose: int, seed: int, epoch: int, batch: int = 0) -> np.random.Generator:
    return np.random.default_rng((purpose, seed, epoch, batch))
