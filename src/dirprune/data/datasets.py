"""The standard small data sets: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100, as bytes.

scikit-learn and torchvision take seconds to import, so each is imported where it is used.
"""

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dirprune._support.files import expand_user

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

CACHE = expand_user("~/.cache/dirprune")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

Examples = tuple[Tensor, Tensor]
"""uint8 images with shape (N, C, H, W) and int64 labels with shape (N,)."""


def digits() -> tuple[Examples, Examples]:
    """Read scikit-learn's 1,797 handwritten digits, 8x8 pixels, embedded in its package.

    Returns:
        Training and test examples: a fixed stratified 80/20 split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=data.target, random_state=0
    )
    return (images[train], labels[train]), (images[test], labels[test])


def fashion_mnist(folder: str = "") -> tuple[Examples, Examples]:
    """Read Fashion-MNIST's original IDX files, 70,000 grey images of 28x28 pixels.

    Args:
        folder: Folder of the four files, plain or gzipped; by default the folder of Debian's
            package or of torchvision's download.

    Returns:
        Training and test examples.

    Raises:
        FileNotFoundError: If a file is missing; the message says how to get the data.
        ValueError: If a file is damaged, or images and labels do not match.
    """
    given = expand_user(folder) if folder else None
    places = [given] if given else [DEBIAN_FASHION_MNIST, CACHE / "FashionMNIST" / "raw"]
    for place in places:
        names = [name for part in ("train", "t10k") for name in _idx_names(part)]
        files = [_plain_or_gzipped(place / name) for name in names]
        if all(files):
            train_x, train_y, test_x, test_y = (_read_idx(file) for file in files if file)
            return _labelled(train_x, train_y, place), _labelled(test_x, test_y, place)
    raise FileNotFoundError(
        f"no Fashion-MNIST IDX files in {' or '.join(map(str, places))}: "
        f"apt install dataset-fashion-mnist, or {_download('FashionMNIST')}"
    )


def cifar(name: str, folder: str = "") -> tuple[Examples, Examples]:
    """Read CIFAR-10 or CIFAR-100, 60,000 colour images of 32x32 pixels, through torchvision.

    Args:
        name: cifar10 or cifar100.
        folder: Folder with the unpacked archive, ~/.cache/dirprune by default.

    Returns:
        Training and test examples.

    Raises:
        FileNotFoundError: If the data is missing; the message says how to get it.
    """
    from torchvision import datasets

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = expand_user(folder) if folder else CACHE
    try:
        train, test = (reader(root, train=train) for train in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"no complete {reader.base_folder} in {root}: {_download(reader.__name__, root)}"
        ) from error
    return _from_torchvision(train), _from_torchvision(test)


def _idx_names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _plain_or_gzipped(path: Path) -> Path | None:
    candidates = (path, path.with_name(path.name + ".gz"))
    return next((p for p in candidates if p.is_file()), None)


def _read_idx(path: Path) -> Tensor:
    # torchvision's own reader of this format does not open gzipped files.
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        ndim = data[3]
        shape = np.frombuffer(data, ">u4", count=ndim, offset=4)
        if data[:3] != b"\0\0\x08":
            raise ValueError("the header is not that of unsigned bytes")
        return torch.from_numpy(
            np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()
        )
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a complete IDX file ({error}): download it again"
        ) from error


def _labelled(images: Tensor, labels: Tensor, folder: Path) -> Examples:
    largest = max(labels.flatten().tolist(), default=0)
    if images.ndim != 3 or not len(images) or labels.shape != images.shape[:1] or largest > 9:
        raise ValueError(
            f"{folder} has images with shape {tuple(images.shape)} and labels with shape "
            f"{tuple(labels.shape)} up to {largest}, but every image needs one label in 0..9: "
            "download the files again"
        )
    return images[:, None], labels.long()


def _from_torchvision(data: "CIFAR10") -> Examples:
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(data.targets)


def _download(name: str, root: Path = CACHE) -> str:
    return (
        f"python -c \"from torchvision.datasets import {name}; {name}('{root}', download=True)\""
    )
