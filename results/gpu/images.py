"""CIFAR-10 from archives of JPEGs, as one array, without unpacking them to a disk."""

import io
import tarfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read(archive: Path, threads: int, per_class: int | None = None) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 32, 32, 3) and classes; the folders' alphabetical order numbers them."""
    files: dict[str, list[bytes]] = defaultdict(list)
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jpg"):
                name = Path(member.name).parent.name
                if per_class is None or len(files[name]) < per_class:
                    file = tar.extractfile(member)
                    assert file is not None  # noqa: S101 - isfile() was asked
                    files[name].append(file.read())
                elif len(files) == 10 and all(len(f) == per_class for f in files.values()):
                    break
    names = sorted(files)
    data = [jpeg for name in names for jpeg in files[name]]
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(_decode, data, chunksize=256))
    classes = [i for i, name in enumerate(names) for _ in files[name]]
    return torch.from_numpy(np.stack(images)), torch.tensor(classes)


def _decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def split(labels: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
    """Places of the training images and of the last ``held_out`` of every class."""
    training, validation = [], []
    for c in range(10):
        places = (labels == c).nonzero().flatten()
        cut = len(places) - held_out
        training.append(places[:cut])
        validation.append(places[cut:])
    return torch.cat(training), torch.cat(validation)


class Images:
    """Images and classes on a device, and batches of them made there."""

    def __init__(self, images: Tensor, labels: Tensor, device: str) -> None:
        self.labels = labels.to(device)
        padded = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
        self._padded = padded.to(device)
        self._mean = torch.tensor(MEAN, device=device) * 255
        self._scale = 1 / (torch.tensor(STD, device=device) * 255)
        self._side = torch.arange(32, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, places: Tensor, dx: Tensor, dy: Tensor, flip: Tensor) -> Tensor:
        """Crops with offsets 0 to 8, flipped where ``flip``: (B, 3, 32, 32), channels last."""
        rows = dy[:, None] + self._side
        columns = dx[:, None] + torch.where(flip[:, None], 31 - self._side, self._side)
        pixels = self._padded[places[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalised(pixels)

    def plain(self, start: int, end: int) -> Tensor:
        """Images as they are."""
        return self._normalised(self._padded[start:end, 4:36, 4:36])

    def _normalised(self, pixels: Tensor) -> Tensor:
        return ((pixels.float() - self._mean) * self._scale).permute(0, 3, 1, 2)
