"""The names of networks. Importing this module imports nothing else."""

OWN_NAMES = ("mlp", "convnet", "resnet20", "vgg16", "vgg16_bn", "wrn28x10")
"""The networks that :func:`dirprune.models.build` implements itself."""

TORCHVISION = "torchvision.models:"
"""Before the name of a network of torchvision, where dirprune has one of the same name."""


def names_code(name: str) -> bool:
    """Return whether building a model by this name runs code outside of installed libraries.

    If such a name comes from somebody else's file, the user has to consent before it is built.

    Example:
        >>> [names_code(name) for name in ("resnet20", "timm:vit_tiny_patch16_224", "mine:net")]
        [False, False, True]
    """
    kind, colon, rest = name.partition(":")
    remote = kind == "timm" and (":" in rest or "/" in rest)  # a hub or a folder
    return bool(colon) and (remote or (kind != "timm" and not name.startswith(TORCHVISION)))
