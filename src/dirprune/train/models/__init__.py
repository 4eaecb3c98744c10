"""Networks by name: dirprune's own, torchvision's, timm's and the user's."""

from dirprune.train.models.build import build_model

__all__ = ["build_model"]
