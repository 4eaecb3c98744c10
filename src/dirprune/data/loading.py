"""Data sets by name: training, validation and test images, their classes and shapes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dirprune._support.cpus import num_cpus
from dirprune._support.files import expand_user
from dirprune._support.suggestions import did_you_mean
from dirprune.data.augment import CropFlip
from dirprune.data.datasets import Examples, cifar, digits, fashion_mnist
from dirprune.data.folders import class_folders, decode_small, evaluation_parts
from dirprune.data.names import NAMES
from dirprune.data.sources import MemorySource, Source

if TYPE_CHECKING:
    from dirprune.data.stream import StreamSource

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of every channel, for images in [0, 1]."""


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test images, and the properties that a model needs.

    Attributes:
        name: The name that was given.
        num_classes: Labels are 0 to num_classes - 1.
        channels: 1 for grey images, 3 for colour.
        size: Height and width of the model's inputs.
        mean: Mean of every channel that is subtracted, for images in [0, 1].
        std: Standard deviation of every channel that is divided by.
        train: Training images.
        validation: Images for choosing an epoch or a value of c, or None.
        test: Images for reporting.
        augment: Whether training batches are augmented.
    """

    name: str
    num_classes: int
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Source
    validation: Source | None
    test: Source
    augment: bool

    @property
    def task(self) -> dict[str, Any]:
        """The properties that are needed to build a model without the data."""
        names = ("num_classes", "channels", "size", "mean", "std")
        return {name: getattr(self, name) for name in names}


def load(
    name: str,
    *,
    validation: float = 0.0,
    seed: int = 0,
    augment: bool = True,
    workers: int | None = None,
) -> Dataset:
    """Read a data set by its name.

    - ``digits``: scikit-learn's digits, 8x8, a fixed stratified 80/20 split, no augmentation.
    - ``fashion-mnist[:FOLDER]``: crops of the image padded by 2 black pixels, and flips.
    - ``cifar10[:FOLDER]``, ``cifar100[:FOLDER]``: crops padded by 4 black pixels, and flips.
    - ``imagefolder:FOLDER``: RGB images in train/CLASS/ and test/CLASS/ or val/CLASS/. If both
      exist, test/ is the test data, and val/ is the validation data unless ``validation``
      requests a share of the training data. Images of one size up to 64x64 are kept in memory;
      from 28x28 on they have crops padded by 4 mirrored pixels, and flips. Other images are
      streamed at 224x224 with RandomResizedCrop and flips.
    - ``imagenet:FOLDER``: train/CLASS/ and val/CLASS/, streamed, tested on val/.

    Images are normalised by mean and standard deviation of the training images. CIFAR-10 and
    CIFAR-100 use the constants in the paper's code for WRN28x10 (its code for VGG16 uses
    ImageNet's); streamed images use ImageNet's.

    Args:
        name: A name from the list above.
        validation: Share of the training images to hold out for validation, in [0, 1).
        seed: Decides which images are held out.
        augment: Whether training batches are augmented, if the data set has an augmentation.
        workers: Processes that decode streamed images; 0 decodes in this process. By default one
            for each CPU that this process may use, at most 8.

    Returns:
        The data set.

    Raises:
        ValueError: If the name is unknown, or the data cannot be used; the message says why.
        FileNotFoundError: If the data is missing; the message says how to get it.
        NotADirectoryError: If a file was given instead of a folder.

    Example:
        >>> data = load("digits", validation=0.1)
        >>> len(data.train), len(data.validation or ()), len(data.test)
        (1293, 144, 360)
    """
    kind, colon, folder = name.partition(":")
    if kind not in NAMES or (kind == "digits" and colon):
        hint = did_you_mean(kind, NAMES)
        raise ValueError(f"unknown data {name!r}: {hint}use one of {', '.join(NAMES)}")
    if kind in ("imagefolder", "imagenet"):
        if not folder:
            raise ValueError(f"data {name!r} needs a folder: use {kind}:FOLDER")
        data = _folders(kind, folder, workers)
    else:
        data = _standard(kind, folder)
    if validation:
        data = _hold_out(data, validation, seed)
    return replace(data, name=name, augment=data.augment and augment)


def channel_statistics(images: Tensor) -> Statistics:
    """Compute mean and standard deviation of every channel of images in [0, 1].

    Args:
        images: uint8 with shape (N, C, H, W).

    Returns:
        Both, one number per channel. The deviation of a constant channel is 1.

    Example:
        >>> channel_statistics(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        ((0.5,), (0.5,))
    """
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = np.bincount(channel.numpy().ravel(), minlength=256) / channel.numel()
        mean.append(float(share @ values))
        std.append(float(share @ (values - mean[-1]) ** 2) ** 0.5 or 1.0)
    return tuple(mean), tuple(std)


def _standard(kind: str, folder: str) -> Dataset:
    if kind == "digits":
        train, test = digits()
        return _in_memory(10, [train, test], channel_statistics(train[0]), None)
    if kind == "fashion-mnist":
        train, test = fashion_mnist(folder)
        return _in_memory(10, [train, test], channel_statistics(train[0]), CropFlip(2))
    num_classes = {"cifar10": 10, "cifar100": 100}[kind]
    return _in_memory(num_classes, cifar(kind, folder), CIFAR_STATISTICS, CropFlip(4))


def _folders(kind: str, folder: str, workers: int | None) -> Dataset:
    from dirprune.data.stream import StreamSource  # it imports torchvision, which takes seconds

    if kind == "imagenet" and not expand_user(folder).exists():
        raise FileNotFoundError(
            f"no folder {folder}: imagenet:FOLDER needs train/CLASS/ and val/CLASS/; download "
            "the archives from image-net.org (ILSVRC2012) and unpack them with "
            "torchvision.datasets.ImageNet"
        )
    names = ["val"] if kind == "imagenet" else evaluation_parts(folder)
    classes, files = class_folders(folder, ["train", *names])
    images = decode_small(files) if kind == "imagefolder" else None
    if images is not None:
        parts = [(x, labels) for x, (_, labels) in zip(images, files, strict=True)]
        augmentation = CropFlip(4, "reflect") if min(images[0].shape[2:]) >= 28 else None
        return _in_memory(len(classes), parts, channel_statistics(images[0]), augmentation)
    count = min(8, num_cpus()) if workers is None else workers
    sources = [StreamSource(*part, *IMAGENET_STATISTICS, workers=count) for part in files]
    return _dataset(len(classes), 3, (224, 224), sources, augment=True)


def _in_memory(
    num_classes: int,
    parts: "list[Examples] | tuple[Examples, ...]",
    statistics: Statistics,
    augmentation: CropFlip | None,
) -> Dataset:
    sources = [MemorySource(*part, *statistics, augmentation) for part in parts]
    _, channels, height, width = sources[0].images.shape
    augment = augmentation is not None
    return _dataset(num_classes, channels, (height, width), sources, augment=augment)


def _dataset(
    num_classes: int,
    channels: int,
    size: tuple[int, int],
    sources: "list[MemorySource] | list[StreamSource]",
    *,
    augment: bool,
) -> Dataset:
    train, test = sources[:2]
    validation = sources[2] if len(sources) > 2 else None
    return Dataset(
        "", num_classes, channels, size, train.mean, train.std, train, validation, test, augment
    )


def _hold_out(data: Dataset, share: float, seed: int) -> Dataset:
    from sklearn.model_selection import train_test_split  # takes seconds

    try:
        train, validation = train_test_split(
            np.arange(len(data.train)),
            test_size=share,
            stratify=data.train.labels.numpy(),
            random_state=seed,
        )
    except ValueError as error:
        raise ValueError(
            f"validation={share} of {len(data.train)} training images cannot keep each of "
            f"{data.num_classes} classes in both parts: give another share or more images"
        ) from error
    train, validation = torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(validation))
    return replace(data, train=data.train.take(train), validation=data.train.take(validation))
