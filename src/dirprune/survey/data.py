"""The data of a survey: frozen images to measure on, batches to fit curves on."""

import logging
import math
from collections.abc import Iterator

import numpy as np
import psutil
import torch
from torch import Tensor

from dirprune.data.loading import Dataset
from dirprune.data.sources import Source, num_batches
from dirprune.landscape import FrozenData
from dirprune.survey.config import SurveyConfig

EVALUATION_BATCH = 500
"""Largest number of images in a batch of frozen data."""
MEMORY_SHARE = 0.25
"""Share of the installed memory that frozen data may occupy."""
_log = logging.getLogger(__name__)


class TrainingBatches:
    """Training batches like those of a run, in an order drawn from torch's random state.

    Args:
        source: Training images.
        batch_size: Images per batch.
        augment: Whether they are augmented.
        memory_format: Memory format of the images.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        augment: bool,
        memory_format: torch.memory_format,
    ) -> None:
        self._source, self._batch_size, self._augment = source, batch_size, augment
        self._memory_format = memory_format
        # The last batch may be a single image, whose variance BatchNorm cannot compute.
        self._drop_last = len(source) >= batch_size

    def __len__(self) -> int:
        return num_batches(len(self._source), self._batch_size, drop_last=self._drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seed = int(torch.randint(2**31, ()))
        for x, y in self._source.batches(
            self._batch_size,
            seed=seed,
            shuffle=True,
            augment=self._augment,
            drop_last=self._drop_last,
        ):
            yield x.contiguous(memory_format=self._memory_format), y


def frozen_data(
    source: Dataset, config: SurveyConfig, memory_format: torch.memory_format
) -> dict[str, FrozenData]:
    """Draw training and test images, the same ones for the same seed.

    All images stay in memory, so their number is limited: see :data:`MEMORY_SHARE`.

    Returns:
        Frozen data by name: train, test, and augmented if training augments.
    """
    samples, test_samples = _within_memory(source, config)
    train = _part(source.train, samples, config.seed)
    frozen = {"train": train, "test": _part(source.test, test_samples, config.seed)}
    data = {name: _freeze(part, None, memory_format) for name, part in frozen.items()}
    if source.augment:
        data["augmented"] = _freeze(train, config.seed, memory_format)
    return data


def _within_memory(source: Dataset, config: SurveyConfig) -> tuple[int, int]:
    """Return the numbers of training and test images, fewer if they need too much memory."""
    train = min(config.samples or len(source.train), len(source.train))
    test = min(config.test_samples or len(source.test), len(source.test))
    image = 4 * source.channels * math.prod(source.size)
    needed = image * (train * (2 if source.augment else 1) + test)
    # The installed, not the free memory: a resumed survey must use the same images.
    limit = MEMORY_SHARE * psutil.virtual_memory().total  # type: ignore[no-untyped-call]
    if needed <= limit:
        return train, test
    share = limit / needed
    fewer = max(1, int(share * train)), max(1, int(share * test))
    _log.warning(
        "%d training and %d test images need %.1f GB of memory: %d and %d are used (%.1f GB)",
        *(train, test, needed / 1e9, *fewer, limit / 1e9),
    )
    return fewer


def _part(source: Source, count: int, seed: int) -> Source:
    if not 0 < count < len(source):
        return source
    order = np.random.default_rng(seed).permutation(len(source))
    return source.take(torch.from_numpy(np.sort(order[:count])))


def _freeze(
    source: Source, augmentation: int | None, memory_format: torch.memory_format
) -> FrozenData:
    # Batches of nearly equal size: each has the same weight when statistics are re-estimated.
    count = num_batches(len(source), EVALUATION_BATCH)
    size = num_batches(len(source), count)
    drawn = source.batches(size, seed=augmentation, augment=augmentation is not None)
    return FrozenData([(x.contiguous(memory_format=memory_format), y) for x, y in drawn])
