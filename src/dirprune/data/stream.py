"""Large data sets: image files decoded by worker processes while the model trains."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from dirprune.data.images import read_image
from dirprune.data.sources import Request, Source

Batch = tuple[Tensor, Tensor]
Key = tuple[int, int | None]


@dataclass(frozen=True)
class StreamSource(Source):
    """Images in files, cropped to one size as is usual for ImageNet.

    An augmented image is a random part of the photo, resized, and flipped with probability 1/2.
    Other images are the centre, after resizing the shorter side to 256/224 of ``size``.

    Attributes:
        paths: Path of every image.
        size: Height and width of the model's inputs.
        workers: Decoding processes; 0 decodes in this process.
    """

    paths: tuple[str, ...]
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = 224
    workers: int = 0

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode the images; see `Source.read`.

        Raises:
            ValueError: If an image is broken; the message names its file.
        """
        loader: DataLoader[Batch | ValueError] = DataLoader(
            _Decoder(self.paths, self.labels, self.size),  # type: ignore[arg-type]
            sampler=map(_keys, requests),
            batch_size=None,  # the sampler's items are whole batches
            num_workers=self.workers,
            generator=torch.Generator(),  # the default one is also used by dropout
        )
        for batch in loader:
            if isinstance(batch, ValueError):
                raise batch
            images, labels = batch
            yield images, labels

    def take(self, indices: Tensor) -> "StreamSource":
        """Return a source of only these images."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices])


@dataclass(frozen=True)
class _Decoder:
    """Maps a list of (image number, augmentation seed or None) to a batch."""

    paths: tuple[str, ...]
    labels: Tensor
    size: int

    def __getitem__(self, keys: Sequence[Key]) -> Batch | ValueError:
        images = torch.empty(len(keys), 3, self.size, self.size, dtype=torch.uint8)
        for out, (index, seed) in zip(images, keys, strict=True):
            try:
                image = read_image(self.paths[index])
            except ValueError as error:
                return error  # raising it in a worker would print a long traceback
            if seed is None:
                cropped = _centre_crop(image, self.size)
            else:
                cropped = _random_crop(image, self.size, seed)
            out.copy_(torch.from_numpy(np.array(cropped)).permute(2, 0, 1))
        return images, self.labels[[index for index, _ in keys]]


# torchvision's functions below accept Pillow images, although they are annotated with tensors.
def _centre_crop(image: Any, size: int) -> Any:
    return F.center_crop(F.resize(image, [round(size * 256 / 224)]), [size, size])


def _random_crop(image: Any, size: int, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part = RandomResizedCrop(size)(image)
        return F.hflip(part) if torch.rand(()) < 0.5 else part


def _keys(request: Request) -> list[Key]:
    indices = request.indices.tolist()
    seeds: list[int | None] = [None] * len(indices)
    if request.rng is not None:
        # One seed per image, so that the result does not depend on the number of processes.
        seeds = request.rng.integers(2**63, size=len(indices)).tolist()
    return list(zip(indices, seeds, strict=True))[request.mine]
