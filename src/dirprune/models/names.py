"""The names of dirprune's own networks. Importing this loads nothing else."""

OWN_NAMES = ("mlp", "convnet", "resnet20", "vgg16", "vgg16_bn", "wrn28x10")
"""What :func:`dirprune.models.build` builds itself."""
