"""Images in one folder per class, decoded into memory when they are small."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dirprune._support.files import expand_user
from dirprune.data.images import read_image

MEMORY_SIDE = 64
"""Largest height and width, in pixels, of images that are kept in memory."""
MEMORY_BYTES = 2 * 2**30
"""Largest size in memory of all images of a data set."""

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".jp2"),
    *(".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
)
"""Types of files that are read, in upper or lower case; other files are ignored."""

Files = tuple[tuple[str, ...], Tensor]
"""Paths of the images, and their labels, int64 with shape (N,)."""


def class_folders(folder: str, parts: Sequence[str]) -> tuple[list[str], list[Files]]:
    """List the images in ``folder/PART/CLASS/``, at any depth, for every part.

    Args:
        folder: Folder that contains the parts.
        parts: Their names. The first one is the training data, which defines the classes.

    Returns:
        Names of the classes in the order of their labels, and the files of every part.

    Raises:
        FileNotFoundError: If the folder or a part is missing, a class of the first part has no
            image, or no class of another part has one.
        NotADirectoryError: If the folder is a file.
        ValueError: If there is only one class, or a part has a class that training lacks.
    """
    root = _existing_folder(folder)
    for part in parts:
        if not (root / part).is_dir():
            needed = " and ".join(f"{name}/CLASS/" for name in parts)
            raise FileNotFoundError(
                f"{root} has no {part}/: create {needed} with the images of every class"
            )
    found = [_classes(root / part) for part in parts]
    classes = found[0]
    if len(classes) < 2:
        raise ValueError(
            f"{root / parts[0]} has one class, {classes[0]}, but training needs at least 2: add "
            "another folder"
        )
    for part, names in zip(parts, found, strict=True):
        if unknown := sorted(set(names) - set(classes)):
            raise ValueError(
                f"{root / part} has classes that {parts[0]}/ lacks ({', '.join(unknown[:3])}), "
                f"and the folders of {parts[0]}/ define the labels: add these folders there, or "
                f"remove them from {part}/"
            )
    return classes, [
        _files(root / part, names, classes, all_needed=part == parts[0])
        for part, names in zip(parts, found, strict=True)
    ]


def evaluation_parts(folder: str) -> list[str]:
    """List which of test/ and val/ a folder has; the first one is used for testing.

    Returns:
        ``["test", "val"]``, ``["test"]`` or ``["val"]``.

    Raises:
        FileNotFoundError: If it has neither.
        NotADirectoryError: If the folder is a file.
    """
    root = _existing_folder(folder)
    if not (parts := [part for part in ("test", "val") if (root / part).is_dir()]):
        raise FileNotFoundError(
            f"{root} has neither test/ nor val/: create train/ and one of these, "
            f"each with one folder of images per class"
        )
    return parts


def decode_small(parts: Sequence[Files]) -> list[Tensor] | None:
    """Decode all images if they have the same small size.

    Returns:
        uint8 images with shape (N, 3, H, W) for every part; None if they differ in size, are
        larger than `MEMORY_SIDE`, or take more than `MEMORY_BYTES` together.

    Raises:
        ValueError: If an image is broken; the message names its file.
    """
    width, height = read_image(parts[0][0][0]).size
    total = sum(len(paths) for paths, _ in parts) * 3 * height * width
    if max(width, height) > MEMORY_SIDE or total > MEMORY_BYTES:
        return None
    decoded = []
    for paths, _ in parts:
        if (images := _decode(paths, height, width)) is None:
            return None
        decoded.append(images)
    return decoded


def _decode(paths: tuple[str, ...], height: int, width: int) -> Tensor | None:
    # One thread: for such small images, the interpreter's lock makes several threads slower.
    images = np.empty((len(paths), height, width, 3), np.uint8)
    for i, path in enumerate(paths):
        image = read_image(path)
        if image.size != (width, height):
            return None
        images[i] = np.asarray(image)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _existing_folder(folder: str) -> Path:
    root = expand_user(folder)
    if not root.exists():
        raise FileNotFoundError(
            f"no folder {root}: give a folder with train/ and test/ or val/, each with one folder "
            "of images per class"
        )
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: give a folder with train/ and test/ or val/")
    return root


def _classes(folder: Path) -> list[str]:
    """The names of the visible folders."""
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not _is_hidden(e.name))
    if not names:
        raise FileNotFoundError(
            f"no images in {folder} (no folders of classes): create one folder of images per class"
        )
    return names


def _images(folder: Path) -> list[str]:
    """The images at any depth, through links; every folder is entered once."""
    entered, found = {os.path.realpath(folder)}, []
    for root, folders, files in os.walk(folder, followlinks=True):
        names = [n for n in files if n.lower().endswith(EXTENSIONS) and not _is_hidden(n)]
        found.append((root, sorted(names)))
        visible = sorted(name for name in folders if not _is_hidden(name))
        targets = [os.path.realpath(os.path.join(root, name)) for name in visible]
        folders[:] = [name for name, target in zip(visible, targets) if target not in entered]
        entered.update(targets)
    return [os.path.join(root, name) for root, names in sorted(found) for name in names]


def _is_hidden(name: str) -> bool:
    """Return whether a folder or file is hidden, such as .ipynb_checkpoints."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _files(folder: Path, names: list[str], classes: list[str], *, all_needed: bool) -> Files:
    """The images of one part; every class needs some if ``all_needed``, otherwise any class."""
    images = {name: _images(folder / name) for name in names}
    empty = [name for name in names if not images[name]]
    if empty and (all_needed or len(empty) == len(names)):
        raise FileNotFoundError(
            f"no images in {folder} (classes {', '.join(empty[:3])}): create one folder of images "
            f"per class; known types are {' '.join(EXTENSIONS)}"
        )
    paths = tuple(path for name in names for path in images[name])
    labels = [label for name in names for label in [classes.index(name)] * len(images[name])]
    return paths, torch.tensor(labels)
