"""The names of dirprune's own networks. Importing this module imports nothing else."""

OWN_NAMES = ("mlp", "convnet", "resnet20", "vgg16", "vgg16_bn", "wrn28x10")
"""The networks that :func:`dirprune.models.build` implements itself."""
