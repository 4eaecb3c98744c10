"""Data sets for image classification: by name, from folders of images, or from single files."""

from typing import TYPE_CHECKING

from dirprune._support.lazy import lazy

if TYPE_CHECKING:
    from dirprune.data.folders import class_folders as class_folders
    from dirprune.data.images import read_image as read_image
    from dirprune.data.loading import Dataset as Dataset
    from dirprune.data.loading import load as load

_HOME = {
    "load": "dirprune.data.loading",
    "Dataset": "dirprune.data.loading",
    "class_folders": "dirprune.data.folders",
    "read_image": "dirprune.data.images",
}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
