"""Networks by name: dirprune's own, torchvision's, timm's and the user's."""

from dirprune.models.factory import build_model

__all__ = ["build_model"]
