"""Networks by name: dirprune's own, torchvision's, timm's and the user's."""

from dirprune.models.factory import build, names_code

__all__ = ["build", "names_code"]
