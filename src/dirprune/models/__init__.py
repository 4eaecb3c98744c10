"""Networks by name: dirprune's own, torchvision's, timm's and the user's."""

from typing import TYPE_CHECKING

from dirprune._support.lazy import lazy

if TYPE_CHECKING:
    from dirprune.models.factory import build as build
    from dirprune.models.names import names_code as names_code

_HOME = {"build": "dirprune.models.factory", "names_code": "dirprune.models.names"}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
